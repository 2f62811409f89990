"""What held-out images say of each class and operation: harm, how sure it is, and what to forbid.

For one class and operation: c_i is the probability that a judge gives the true class of image i, a_i the same after
the operation. The harm is the share that is lost, 1 - sum(a) / sum(c); its variance is the ratio estimator's, drawn
towards the mean over classes ("moderated", G. K. Smyth, "Linear Models and Empirical Bayes Methods", 2004, with a
fixed prior of 4 degrees of freedom), because ten images say little about their own spread.

For the base's own operations the harm counts beyond what the operation costs the classes that it suits best (the
second-lowest tenth of classes, their harms first drawn together as far as they differ by chance): a judge that has
never seen an operation dislikes it for every class, and that says nothing about labels. An added operation has nobody
who vouches for it: all of its harm counts.

A pair of class and operation is vetoed where a one-sided t-test says that its harm exceeds the margin, at a bound on
false discoveries (Benjamini and Hochberg, 1995) over all pairs, and where the harm, drawn towards 0 as if
``shrinkage`` further images had shown none, exceeds the margin too. So a class with few images is left alone unless
what they show is plain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["Sums", "Verdict", "false_discovery_rates", "judge"]

_PRIOR = 4.0  # degrees of freedom of the variance that classes share
_BEST = 0.2  # quantile of classes that an operation suits best


@dataclass
class Sums:
    """Sums over images, which add up over folds.

    Attributes:
        n: images, [L].
        clean: sum of c, [L].
        clean2: sum of c^2, [L].
        seen: sum of a at each level, [S, L].
        seen2: sum of a^2, [S, L].
        both: sum of a c, [S, L].
    """

    n: np.ndarray
    clean: np.ndarray
    clean2: np.ndarray
    seen: np.ndarray
    seen2: np.ndarray
    both: np.ndarray

    def harms(self) -> tuple[np.ndarray, np.ndarray]:
        """Harm and the variance of one image's part in it, each [S, L]; where nothing is known, 0 and infinite."""
        known = (self.n >= 2) & (self.clean > 0)
        clean, n = np.where(known, self.clean, 1.0), np.maximum(self.n, 2)
        left = self.seen / clean
        spread = (self.seen2 - 2 * left * self.both + left**2 * self.clean2) / (n - 1)
        variance = np.maximum(spread, 0.0) / (clean / n) ** 2
        return np.where(known, 1 - left, 0.0), np.where(known, variance, np.inf)


@dataclass(frozen=True)
class Verdict:
    """What is known of one operation.

    Attributes:
        harm: that counts, [S, L] (mild to full).
        p: of the hypothesis that the harm is at most the margin, [S, L].
        plain: whether the harm, drawn towards 0, exceeds the margin: bool [S, L].
        small: whether the harm is below the margin: bool [S, L].
    """

    harm: np.ndarray
    p: np.ndarray
    plain: np.ndarray
    small: np.ndarray


def judge(sums: Sums, *, margin: float, relative: bool, shrinkage: float) -> Verdict:
    """Weigh one operation.

    Args:
        sums: over all images that judged it.
        margin: harm that does not matter, in [0, 1).
        relative: harm counts beyond that of the classes that the operation suits best.
        shrinkage: images' worth of trust in no harm, >= 0.
    """
    from scipy.stats import t

    harm, variance = sums.harms()
    known, n = np.isfinite(variance), np.maximum(sums.n, 1)
    weight = np.where(known, np.maximum(n - 1, 0), 0)
    shared = (np.where(known, variance, 0.0) * weight).sum(1, keepdims=True) / np.maximum(weight.sum(1), 1)[:, None]
    moderated = (_PRIOR * shared + np.where(known, variance, 0.0) * weight) / (_PRIOR + weight)
    errors = np.sqrt(np.maximum(moderated, 1e-12) / n)
    if relative:
        harm = np.where(known, harm - _usual(harm, errors, known)[:, None], 0.0)
    p = np.where(known, t.sf((harm - margin) / errors, _PRIOR + n - 1), 1.0)
    plain = known & (n / (n + shrinkage) * harm > margin)
    return Verdict(harm=np.where(known, harm, np.nan), p=p, plain=plain, small=harm < margin)


def _usual(harm: np.ndarray, errors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The harm to the classes that the operation suits best, at each level: [S]."""
    found = np.zeros(len(harm))
    for level, (row, error, there) in enumerate(zip(harm, errors, known, strict=True)):
        if there.any():
            values, mean = row[there], row[there].mean()
            chance = float((error[there] ** 2).mean())
            real = max(0.0, float(values.var()) - chance)
            drawn = mean + (values - mean) * real / (real + chance + 1e-12)
            found[level] = np.quantile(drawn, _BEST)
    return found


def false_discovery_rates(p: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Benjamini and Hochberg's adjusted p-values over several arrays together, each in its shape.

    A value of 1 takes no part: nothing was tested there.
    """
    arrays = [np.asarray(values, dtype=float) for values in p]
    flat = np.concatenate([values.ravel() for values in arrays]) if arrays else np.zeros(0)
    tested = np.flatnonzero(flat < 1)
    order = tested[np.argsort(flat[tested], kind="stable")]
    rates = flat[order] * len(order) / np.arange(1, len(order) + 1)
    found = np.ones_like(flat)
    found[order] = np.minimum(1.0, np.minimum.accumulate(rates[::-1])[::-1])
    pieces = np.split(found, np.cumsum([values.size for values in arrays])[:-1])
    return [piece.reshape(values.shape) for piece, values in zip(pieces, arrays, strict=True)]
