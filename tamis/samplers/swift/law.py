"""The sampling law of Swift Sampler, tau(x) = H(T(G(x))): pure functions over numpy arrays.

"Swift Sampler: Efficient Learning of Sampler by 10 Parameters", anonymous authors, section 3.2. A sample's
probability is a piecewise linear function of where its features put it among all samples.

=============== ==================== =========================================================================
symbol          here                 meaning
=============== ==================== =========================================================================
f_i             `cumulative`         right-continuous empirical cdf of feature i, Eq. (7); ties share a value
c_i             ``coefficients``     [N] in [-1, 1], Eq. (9)
G               `aggregate`          sum of c_i f_i, Eq. (6)
T = cgf         `cumulative`, `bins` share of the data's gradient norm at samples with G <= u, Eq. (10)
e_1..e_{S-1}    ``knots``            [S - 1], increasing in [0, 1], Eq. (8); e_0 = 0 and e_S = 1 are fixed
v_0..v_S        ``heights``          [S + 1] in [0, 1], Eq. (8)
H               `piecewise_linear`   linear between (e_s, v_s); right-continuous where knots coincide
=============== ==================== =========================================================================

With S = 4 and N = 2 these are the paper's 10 parameters.

**Deviations**: above 65,536 samples T is a histogram of as many bins over G's range (one pass, no sort), off by at
most the mass of one bin; cdf tables keep 65,536 quantiles, off by at most 1/65,536. Eq. (3), the Lipschitz bound,
is not promised: empirical cdf and cgf are step functions.

A further one, ours: ``balance`` multiplies the law by a power of the class' frequency, which no law over loss and
entropy can express; at 0, its default, the law is the paper's.

**Unstated** in the paper, and chosen here: all gradients zero gives T = cdf (with a warning); a law that is zero on
all samples, or the same on all, gives uniform probabilities (with `NoEffectWarning`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tamis.core.checks import check_choice, check_range
from tamis.core.errors import NoEffectWarning

__all__ = ["BINS", "BinnedSteps", "Steps", "SwiftLaw", "aggregate", "bins", "cumulative", "piecewise_linear"]

BINS = 2**16
_CHUNK = 2**17  # samples at a time: temporaries stay in the cache


@dataclass(frozen=True)
class SwiftLaw:
    """The paper's parameters z = (e, v, c), Eqs. (8) and (9).

    Args:
        coefficients: c, one a feature, in [-1, 1].
        knots: e_1..e_{S-1}, increasing, in [0, 1].
        heights: v_0..v_S, in [0, 1].
        transform: T, ``"cgf"`` (Eq. 10) or ``"cdf"`` (the paper's ablation: every sample counts the same).
        balance: ours, in [0, 1]: the law is multiplied by (frequency of the sample's class) ** -balance; 1 on a flat
            law draws all classes equally often. Needs a column ``class_frequency``.
    """

    coefficients: tuple[float, ...]
    knots: tuple[float, ...]
    heights: tuple[float, ...]
    transform: str = "cgf"
    balance: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "balance", check_range("balance", self.balance, low=0, high=1))
        check_choice("transform", self.transform, ("cgf", "cdf"))
        for name, low in (("coefficients", -1.0), ("knots", 0.0), ("heights", 0.0)):
            values = tuple(check_range(f"{name}[{i}]", v, low=low, high=1.0) for i, v in enumerate(getattr(self, name)))
            object.__setattr__(self, name, values)
        if not self.coefficients or len(self.heights) != len(self.knots) + 2:
            raise ValueError(
                f"heights={self.heights}: must be two more than the knots ({len(self.knots)}), "
                "and there must be at least one coefficient"
            )
        if any(a > b for a, b in zip(self.knots, self.knots[1:], strict=False)):
            raise ValueError(f"knots={self.knots}: must increase; sort them")

    def to_vector(self) -> tuple[float, ...]:
        """The paper's z without its two fixed knots: e_1..e_{S-1}, v_0..v_S, c_1..c_N (10 values for S=4, N=2)."""
        return self.knots + self.heights + self.coefficients

    @classmethod
    def from_vector(cls, vector: tuple[float, ...], *, segments: int = 4, transform: str = "cgf") -> SwiftLaw:
        """The inverse of `to_vector`; knots are sorted.

        Args:
            vector: the numbers that `to_vector` gives.
            segments: S, >= 1.
            transform: as `SwiftLaw`.
        """
        knots, heights, coefficients = np.split(np.asarray(vector, float), [segments - 1, 2 * segments])
        return cls(tuple(coefficients), tuple(np.sort(knots)), tuple(heights), transform)


@dataclass(frozen=True, eq=False)
class Steps:
    """A right-continuous step function: ``values[j]`` after the j-th of ``keys``, ``values[0] = 0`` before.

    Attributes:
        keys: float64 [K], strictly increasing.
        values: float64 [K + 1], increasing from 0 to 1.
    """

    keys: np.ndarray
    values: np.ndarray

    def positions(self, u: np.ndarray) -> np.ndarray:
        """Where in ``values`` each of ``u`` lies, by binary search.

        Args:
            u: values, [n].
        """
        found: np.ndarray = np.searchsorted(self.keys, u, side="right")
        return found

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.take(self.values, self.positions(u))


@dataclass(frozen=True, eq=False)
class BinnedSteps:
    """A step function over `BINS` equal bins of [low, high]: ``values[j]`` in bin j - 1, at its upper end right.

    Attributes:
        low: lower end of the first bin.
        high: upper end of the last bin.
        values: float64 [BINS + 1], increasing from 0 to 1.
    """

    low: float
    high: float
    values: np.ndarray

    def positions(self, u: np.ndarray) -> np.ndarray:
        """Where in ``values`` each of ``u`` lies, by arithmetic.

        Args:
            u: values, [n].
        """
        return _bin(u, self.low, self.high) + 1

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.take(self.values, self.positions(u))


def _bin(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bin number of each of ``u``, int64 in [0, BINS)."""
    scaled = (u - low) * (BINS / max(high - low, 1e-12))
    return np.minimum(scaled, BINS - 1).astype(np.int64)


def cumulative(u: np.ndarray, mass: np.ndarray | None = None) -> Steps:
    """Share of the mass at values <= each value: Eq. (7) with ``mass=None`` (a cdf), Eq. (10) with gradient norms.

    Args:
        u: finite values [n], n >= 1; ties are taken together.
        mass: >= 0, [n], of positive sum.

    Returns:
        Exact where there are at most `BINS` distinct values, else thinned to steps of 1 / `BINS`.
    """
    if mass is None:
        keys, counts = np.unique(u, return_counts=True)
        total = np.cumsum(counts, dtype=np.float64)
    else:
        keys, where = np.unique(u, return_inverse=True)
        total = np.cumsum(np.bincount(where, weights=mass, minlength=len(keys)))
    share = total / total[-1]
    if len(keys) > BINS:
        keep = np.unique(np.searchsorted(share, np.arange(1, BINS + 1) / BINS))
        keys, share = keys[keep], share[keep]
    return Steps(keys.astype(np.float64), np.concatenate([[0.0], share]))


def bins(chunks: Iterator[tuple[np.ndarray, np.ndarray | None]], low: float, high: float) -> BinnedSteps:
    """Streaming form of `cumulative` for many samples: a histogram over [low, high]; `high` > every value.

    Args:
        chunks: (values, their mass or None) of one stretch of samples after the other.
        low: lower end of the values' range.
        high: upper end.
    """
    mass = np.zeros(BINS)
    for u, weights in chunks:
        mass += np.bincount(_bin(u, low, high), weights=weights, minlength=BINS)
    share = np.cumsum(mass)
    return BinnedSteps(low, high, np.concatenate([[0.0], share / share[-1]]))


def aggregate(cdfs: list[np.ndarray], coefficients: tuple[float, ...]) -> np.ndarray:
    """G = sum of c_i f_i, Eq. (6): float64 [n].

    Args:
        cdfs: f_i, each [n] in [0, 1].
        coefficients: c, one for each of them.
    """
    total: np.ndarray = np.multiply(cdfs[0], coefficients[0], dtype=np.float64)
    for f, c in zip(cdfs[1:], coefficients[1:], strict=True):
        total += np.multiply(f, c, dtype=np.float64)
    return total


def piecewise_linear(t: np.ndarray, knots: tuple[float, ...], heights: tuple[float, ...]) -> np.ndarray:
    """H: linear through (0, v_0), (e_1, v_1), ..., (1, v_S), for t in [0, 1].

    Where knots coincide H jumps and takes the right one's height there (at t = 1 it is v_S).

    Args:
        t: in [0, 1], [n].
        knots: e_1..e_{S-1}, increasing in [0, 1].
        heights: v_0..v_S.
    """
    e, v = np.array([0.0, *knots, 1.0]), np.array(heights)
    segment = np.clip(np.searchsorted(e, t, side="right") - 1, 0, len(e) - 2)
    width = e[segment + 1] - e[segment]
    share = np.where(width > 0, (t - e[segment]) / np.where(width > 0, width, 1.0), 1.0)
    tau: np.ndarray = v[segment] + share * (v[segment + 1] - v[segment])
    return tau


def fit_transform(cdfs: list[np.ndarray], gradient: np.ndarray, law: SwiftLaw) -> Steps | BinnedSteps:
    """T of Eq. (10) (or the cdf of G), from all samples: exact up to `BINS` of them, binned above.

    Args:
        cdfs: f_i, each [n] in [0, 1].
        gradient: [n], >= 0.
        law: gives c and the kind of T.
    """
    use_mass = law.transform == "cgf"
    if use_mass and not gradient.any():
        warnings.warn("gradient: all are 0, so T counts samples (cdf) in place of gradient norms", stacklevel=4)
        use_mass = False
    if len(gradient) <= BINS:
        return cumulative(aggregate(cdfs, law.coefficients), gradient if use_mass else None)
    chunks = (
        (aggregate([f[part] for f in cdfs], law.coefficients), gradient[part] if use_mass else None)
        for part in _parts(len(gradient))
    )
    return bins(chunks, *bounds(law))


def bounds(law: SwiftLaw) -> tuple[float, float]:
    """The range of G over all f in [0, 1].

    Args:
        law: with one coefficient a feature.
    """
    return sum(min(c, 0.0) for c in law.coefficients), sum(max(c, 0.0) for c in law.coefficients)


def scores(cdfs: list[np.ndarray], law: SwiftLaw, transform: Steps | BinnedSteps) -> np.ndarray:
    """The law, tau = H(T(G)), Eq. (5), of each sample: float64 [n] in [0, 1].

    Args:
        cdfs: f_i, each [n] in [0, 1].
        law: with one coefficient a feature.
        transform: T of `fit_transform`.
    """
    table = piecewise_linear(transform.values, law.knots, law.heights)  # H once a step, not once a sample
    tau = np.empty(len(cdfs[0]))
    for part in _parts(len(tau)):
        positions = transform.positions(aggregate([f[part] for f in cdfs], law.coefficients))
        np.take(table, positions, out=tau[part], mode="clip")  # none is out of range; "clip" saves a copy
    return tau


def balanced(tau: np.ndarray, law: SwiftLaw, frequency: np.ndarray | None) -> np.ndarray:
    """``tau`` times frequency ** -balance, our addition to Eq. (5): float64 [n], >= 0.

    Args:
        tau: the law, [n].
        law: gives the exponent.
        frequency: share of each sample's class in the data, [n] in (0, 1]; None: there is no such column.

    Raises:
        KeyError: the law balances and there is no frequency.
        ValueError: a frequency outside of (0, 1].
    """
    if not law.balance:
        return tau
    if frequency is None:
        raise KeyError(
            "features 'class_frequency' is missing, by which the law balances: add it with "
            "features.with_columns({'class_frequency': class_frequency(labels)})"
        )
    check_frequency(frequency)
    weighed: np.ndarray = tau * frequency.astype(np.float64) ** -law.balance
    return weighed


def check_frequency(frequency: np.ndarray) -> None:
    """Raise `ValueError`, with the sample, unless all of ``frequency`` [n] lie in (0, 1].

    Args:
        frequency: share of each sample's class, [n].
    """
    bad = np.flatnonzero(~((frequency > 0) & (frequency <= 1)))
    if len(bad):
        raise ValueError(
            f"class_frequency[{bad[0]}]={frequency[bad[0]]}: must lie in (0, 1], the class' share of the data; take it "
            "with class_frequency(labels)"
        )


def probabilities(tau: np.ndarray) -> np.ndarray:
    """``tau`` normalised to sum 1; uniform, with `NoEffectWarning`, where all are equal or all are zero.

    Args:
        tau: the law of each sample, >= 0, [n].
    """
    low, high = tau.min(), tau.max()
    if low == high:
        why = "zero" if high == 0 else "equal"
        warnings.warn(
            f"the law gives {why} probability to all samples: drawing uniformly; change heights or coefficients",
            NoEffectWarning,
            stacklevel=3,
        )
        return np.full(len(tau), 1.0 / len(tau))
    tau /= tau.sum()
    return tau


def profile(cdf: np.ndarray, p: np.ndarray, bins: int) -> np.ndarray:
    """Mean of n p in each stretch of a feature's ranks: float64 [bins], of mean 1.

    Samples that share a value share the stretch of percentiles that they fill; so do few samples, which fill more than
    one percentile each.

    Args:
        cdf: of the feature at each sample, [n] in (0, 1].
        p: the samples' probabilities, [n], of sum 1.
        bins: equal stretches of the feature's ranks, 100 for percentiles.
    """
    places, which = np.unique(cdf, return_inverse=True)
    drawn = np.cumsum(np.bincount(which, weights=p))
    ends = np.concatenate([[0.0], places])
    cumulated = np.interp(np.linspace(0.0, 1.0, bins + 1), ends, np.concatenate([[0.0], drawn / drawn[-1]]))
    means: np.ndarray = bins * np.diff(cumulated)
    return means


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))
