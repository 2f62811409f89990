"""Swift Sampler: the policy of 10 parameters that a search finds, and the sampler that draws by it.

"Swift Sampler: Efficient Learning of Sampler by 10 Parameters", anonymous authors. What is new there: a sampler is
a function of a few features of a trained model, so low-dimensional that 40 trials of Bayesian optimisation find it.

The equations are in `tamis.samplers.swift.law`, with their symbols, deviations and open points; the features in
`tamis.features`; the search in `tamis.search.swift`.

    features = sample_features(model, train)
    sampler = SwiftSampler(tamis.load_policy("runs/swift"), features, seed=0)

**Deviations**: the policy keeps the cdf of each feature and T as tables, so that it also scores samples it has not
seen (fresh crops, another data set): `SwiftPolicy.score`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.core.types import Figure
from tamis.features.table import FeatureTable
from tamis.policy.base import DataInfo, Policy, SearchInfo, fingerprint, register_policy
from tamis.samplers.swift.law import (
    BINS,
    BinnedSteps,
    Steps,
    SwiftLaw,
    balanced,
    bounds,
    check_frequency,
    cumulative,
    fit_transform,
    probabilities,
    profile,
    scores,
)
from tamis.samplers.weighted.sampler import WeightedSampler

__all__ = ["FeatureTables", "SwiftPolicy", "SwiftSampler"]

_PROFILE = 100  # loss percentiles that the policy remembers the mean probability of
_DOUBTED = 0.05  # by how much the mean of a profile may differ from 1: release 0.1 left empty percentiles at 0
_OLD_PROFILE = "release 0.1 took them wrongly for so few or tied samples; SwiftPolicy.fit(policy.law, features)"


@register_policy("swift")
@dataclass(frozen=True, kw_only=True)
class SwiftPolicy(Policy):
    """A sampling law and what it needs to score samples: made by `SwiftPolicy.fit` or `search_swift`.

    Attributes:
        names: the features, in the order of ``coefficients``.
        coefficients: c, [N] in [-1, 1].
        knots: e_1..e_{S-1}, increasing in [0, 1].
        heights: v_0..v_S in [0, 1].
        transform: ``"cgf"`` or ``"cdf"``.
        tables: float64; ``NAME.keys`` [K] and ``NAME.values`` [K + 1], the cdf of each feature;
            ``transform.values`` and, if T is not binned, ``transform.keys``; ``profile`` [100], the mean of
            n p in each percentile of the first feature; ``balance`` [1] if the law balances classes.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    knots: tuple[float, ...]
    heights: tuple[float, ...]
    transform: str = "cgf"
    tables: dict[str, Tensor]

    def __post_init__(self) -> None:
        _ = self.law  # checks the numbers
        if len(self.names) != len(self.coefficients):
            raise ValueError(f"names={self.names}: must be as many as coefficients ({len(self.coefficients)})")
        wanted = {f"{name}.{part}" for name in self.names for part in ("keys", "values")}
        wanted |= {"transform.values", "profile"}
        if self.tables.keys() - {"transform.keys", "balance"} != wanted:
            raise ValueError(
                f"tables={sorted(self.tables)}: must be {sorted(wanted)} and at most transform.keys and balance"
            )
        for name, table in self.tables.items():
            if table.dtype != torch.float64 or table.ndim != 1 or not bool(torch.isfinite(table).all()):
                raise ValueError(f"tables[{name!r}]: must be finite float64 [K]")
        for name in (*self.names, "transform"):
            values, keys = self.tables[f"{name}.values"], self.tables.get(f"{name}.keys")
            if len(values) != (BINS if keys is None else len(keys)) + 1:
                raise ValueError(f"tables[{name + '.values'!r}]: must have one value more than keys or {BINS} bins")
            steps_down = bool((values.diff() < 0).any())
            if steps_down or values[0] != 0 or values[-1] != 1 or (keys is not None and bool((keys.diff() <= 0).any())):
                raise ValueError(f"tables[{name!r}]: keys must increase, and values from 0 to 1")

    @classmethod
    def fit(cls, law: SwiftLaw, features: FeatureTable) -> SwiftPolicy:
        """The policy of ``law`` with its tables taken from ``features``.

        Args:
            law: with one coefficient a column, ``gradient`` apart.
            features: of the whole data set.
        """
        return FeatureTables(features).policy(law)

    @property
    def law(self) -> SwiftLaw:
        """The paper's parameters; ``law.to_vector()`` gives the 10 numbers."""
        balance = float(self.tables["balance"][0]) if "balance" in self.tables else 0.0
        return SwiftLaw(self.coefficients, self.knots, self.heights, self.transform, balance)

    def score(self, columns: Mapping[str, Tensor]) -> Tensor:
        """The law tau in [0, 1] of any samples, Eq. (5), not normalised: float64 [n].

        Above 1 where the law balances classes.

        Args:
            columns: the features by name, e.g. `feature_columns` of a batch of fresh crops; with ``class_frequency`` if
                the law balances classes.

        Raises:
            KeyError: a feature is missing.
            ValueError: a value is not finite.
        """
        missing = [name for name in self.names if name not in columns]
        if missing:
            raise KeyError(f"features {missing} are missing; got {sorted(columns)}")
        values = [columns[name].detach().cpu().numpy() for name in self.names]
        for name, column in zip(self.names, values, strict=True):
            if not np.isfinite(column).all():
                raise ValueError(f"{name}[{int(np.argmin(np.isfinite(column)))}]: must be finite")
        transform = self._transform()
        kind = np.float64 if isinstance(transform, Steps) else np.float32  # as FeatureTables
        cdfs = [self._steps(name)(column).astype(kind) for name, column in zip(self.names, values, strict=True)]
        frequency = columns.get("class_frequency")
        tau = scores(cdfs, self.law, transform)
        return torch.from_numpy(
            balanced(tau, self.law, None if frequency is None else frequency.detach().cpu().numpy())
        )

    def weights(self, features: FeatureTable) -> Tensor:
        """The sampling probability of each sample: float64 [n], sum 1.

        Uniform, with `NoEffectWarning`, where the law makes no difference between the samples or is 0 on all.

        Args:
            features: of the samples, with the columns that are needed.

        Raises:
            TypeError: ``features`` are not a `FeatureTable`.
            KeyError: a feature is missing.
        """
        check_features(features)
        columns = {name: features[name] for name in features.column_names}
        return torch.from_numpy(probabilities(self.score(columns).numpy()))

    def digest(self) -> str:
        """sha256 over law and tables."""
        return fingerprint(list(self.names), self.transform, list(self.law.to_vector()), self.tables)  # and balance

    def summary(self) -> str:
        """The policy in words."""
        means = self.tables["profile"].numpy()
        fifths = " / ".join(f"{mean:.2f}" for mean in means.reshape(5, -1).mean(1))
        if abs(float(means.mean()) - 1) > _DOUBTED:
            fifths = f"not known ({_OLD_PROFILE})"
        mixture = " ".join(f"{c:+.2f} {name}" for c, name in zip(self.coefficients, self.names, strict=True))
        points = zip((0.0, *self.knots, 1.0), self.heights, strict=True)
        uniform = len(set(self.heights)) == 1
        what = "every sample is drawn equally often" if uniform else "each sample is drawn with a probability that"
        balance = self.law.balance
        on = ", ".join((*(self.names if not uniform else ()), *(("class_frequency",) if balance else ())))
        what = "each sample is drawn with a probability that" if on else what
        lines = [
            f"Swift Sampler: {what}" + (f" depends on {on}" if on else ""),
            f"  ranked by (percentiles) {mixture}, then through {self.transform}",
            "  height at each knot: " + ", ".join(f"{v:.2f} at {e:.2f}" for e, v in points),
            *([f"  times (frequency of the sample's class) ** -{balance:.2f}"] if balance else []),
            f"  draws per sample, from the lowest to the highest fifth of {self.names[0]}: {fifths} (uniform: 1)",
        ]
        if self.search is not None:
            budget = ", ".join(f"{value} {name}" for name, value in sorted(self.search.budget.items()))
            lines.append(f"  found by a search of {budget} (seed {self.search.seed}), score {self.search.score:.4f}")
            noise = self.search.config.get("score_noise")
            if noise is not None:
                lines[-1] += f" (another run of the law moves it by {noise:.2g})"
            if "uniform_score" in self.search.config:
                score = self.search.config["uniform_score"]
                known = "gave no finite score" if score is None else f"scored {score:.4f}"
                lines.append(f"  uniform sampling {known} in the same search")
        return "\n".join(lines)

    def draw(self, figure: Figure) -> None:
        """The paper's figures: tau over the (loss, entropy) percentiles, and n p over the loss percentile.

        Args:
            figure: of matplotlib, empty.
        """
        left, right = figure.subplots(1, 2)
        grid = (np.arange(_PROFILE) + 0.5) / _PROFILE
        columns = [np.repeat(grid, _PROFILE), np.tile(grid, _PROFILE)]
        columns += [np.full(_PROFILE**2, 0.5)] * (len(self.names) - 2)  # further features at their median
        tau = scores(columns[: len(self.names)], self.law, self._transform()).reshape(_PROFILE, _PROFILE)
        image = left.imshow(tau.T, origin="lower", extent=(0, 100, 0, 100), vmin=0, vmax=1, aspect="auto")
        figure.colorbar(image, ax=left, label="tau (not normalised)")
        second = f"{self.names[1]} percentile" if len(self.names) > 1 else "(no second feature)"
        left.set(xlabel=f"{self.names[0]} percentile", ylabel=second, title="tau by features")
        known = self.tables["profile"].numpy()
        if abs(float(known.mean()) - 1) > _DOUBTED:
            right.text(0.5, 0.5, "not known", transform=right.transAxes, ha="center")
        else:
            right.plot(100 * grid, known)
        right.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
        right.set(xlabel=f"{self.names[0]} percentile", ylabel="draws per sample (uniform: 1)", ylim=(0, None))
        right.set_title("sampling probability")

    def _steps(self, name: str) -> Steps:
        return Steps(self.tables[f"{name}.keys"].numpy(), self.tables[f"{name}.values"].numpy())

    def _transform(self) -> Steps | BinnedSteps:
        if "transform.keys" in self.tables:
            return self._steps("transform")
        return BinnedSteps(*bounds(self.law), self.tables["transform.values"].numpy())


def check_features(features: object) -> None:
    """Raise `TypeError`, with the cure, unless ``features`` are a `FeatureTable`.

    Args:
        features: of the samples, with the columns that are needed.
    """
    if not isinstance(features, FeatureTable):
        got = f"Tensor of shape {list(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(
            f"features={got}: must be a FeatureTable; take one with sample_features(model, dataset), read one with "
            "FeatureTable.load(path), or wrap your own in FeatureTable({'loss': losses, 'gradient': gradient_norms})"
        )


def _not_a_policy(got: object) -> str:
    """What `SwiftSampler` says where it gets ``got`` in place of a `SwiftPolicy`."""
    if isinstance(got, (str, os.PathLike)):
        return f"policy={str(got)!r}: must be a SwiftPolicy, not where it lies; pass tamis.load_policy({str(got)!r})"
    if isinstance(got, SwiftLaw):
        return "policy=SwiftLaw: must be a SwiftPolicy; make one with SwiftPolicy.fit(law, features)"
    kind = f"of kind {got.kind!r}" if isinstance(got, Policy) else type(got).__name__
    return f"policy: must be a SwiftPolicy, from search_swift or tamis.load_policy(folder), got {kind}"


class FeatureTables:
    """What all laws over one data set share: the cdf of each feature, and each sample's place in it.

    A new law costs one pass over the data (T) and another (the weights); up to 65,536 samples, one sort.

    Args:
        features: of the whole data set; every column but ``gradient`` and ``class_frequency`` is a feature of the law.

    Raises:
        TypeError: ``features`` are not a `FeatureTable`.
        ValueError: no feature of the law, a gradient below 0, a class frequency outside of (0, 1].
    """

    def __init__(self, features: FeatureTable) -> None:
        check_features(features)
        self.names = tuple(name for name in features.column_names if name not in ("gradient", "class_frequency"))
        if not self.names:
            raise ValueError("features: must have a column besides 'gradient' and 'class_frequency', e.g. 'loss'")
        self.data = DataInfo(n=len(features), fingerprint=features.fingerprint or None)
        columns = [features[name].numpy() for name in self.names]
        self.steps = [cumulative(column) for column in columns]
        kind = np.float64 if len(features) <= BINS else np.float32  # 1 / BINS is far above float32's rounding
        self.cdfs = [step(column).astype(kind) for step, column in zip(self.steps, columns, strict=True)]
        self.gradient = features["gradient"].numpy() if "gradient" in features else None
        if self.gradient is not None and self.gradient.min() < 0:
            index = int(self.gradient.argmin())
            raise ValueError(f"gradient[{index}]={self.gradient[index]}: must be >= 0")
        self.frequency = features["class_frequency"].numpy() if "class_frequency" in features else None
        if self.frequency is not None:
            check_frequency(self.frequency)

    def weights(self, law: SwiftLaw) -> np.ndarray:
        """The probability of each sample under ``law``: float64 [n], sum 1; as `SwiftPolicy.weights`.

        Args:
            law: with one coefficient a feature.
        """
        return probabilities(balanced(scores(self.cdfs, law, self.transform(law)), law, self.frequency))

    def policy(self, law: SwiftLaw, search: SearchInfo | None = None) -> SwiftPolicy:
        """The policy of ``law``, with all its tables.

        Args:
            law: with one coefficient a feature.
            search: how the law was found, if it was searched.

        Raises:
            ValueError: another number of coefficients.
        """
        if len(law.coefficients) != len(self.names):
            raise ValueError(f"coefficients={law.coefficients}: must be one a feature ({', '.join(self.names)})")
        transform = self.transform(law)
        p = probabilities(balanced(scores(self.cdfs, law, transform), law, self.frequency))
        tables = {"profile": profile(self.cdfs[0], p, _PROFILE), "transform.values": transform.values}
        if isinstance(transform, Steps):
            tables["transform.keys"] = transform.keys
        if law.balance:
            tables["balance"] = np.array([law.balance])
        for name, steps in zip(self.names, self.steps, strict=True):
            tables |= {f"{name}.keys": steps.keys, f"{name}.values": steps.values}
        return SwiftPolicy(
            names=self.names,
            coefficients=law.coefficients,
            knots=law.knots,
            heights=law.heights,
            transform=law.transform,
            tables={name: torch.from_numpy(table) for name, table in tables.items()},
            data=self.data,
            search=search,
        )

    def transform(self, law: SwiftLaw) -> Steps | BinnedSteps:
        """T of ``law`` over these samples.

        Args:
            law: gives the coefficients and the kind of T.

        Raises:
            ValueError: ``transform="cgf"`` without a column ``gradient``.
        """
        if self.gradient is None and law.transform == "cgf":
            raise ValueError(
                "features: have no column 'gradient', which transform='cgf' weighs by; add it with "
                "features.with_columns({'gradient': gradient_norms}), or use transform='cdf'"
            )
        gradient = np.ones(len(self.cdfs[0])) if self.gradient is None else self.gradient
        return fit_transform(self.cdfs, gradient, law)


class SwiftSampler(WeightedSampler):
    """Draws samples with the probabilities that a policy gives them.

    Args:
        policy: from `search_swift`, `tamis.load_policy` or `SwiftPolicy.fit`.
        features: of the data set to draw from (`sample_features`), by the model the policy was searched with or
            another one: features are compared by percentile of the policy's own data.
        num_samples: draws an epoch; default: the size of the data set, or with ``replacement=False`` the number of
            samples whose probability is not zero, which is also its upper limit there.
        seed: with the epoch it fixes the order.
        replacement: False draws no sample twice in an epoch; zero-probability samples are never drawn either way.

    Raises:
        TypeError: ``policy`` is not a `SwiftPolicy`, or ``features`` are not a `FeatureTable`.
    """

    def __init__(
        self,
        policy: SwiftPolicy,
        features: FeatureTable,
        num_samples: int | None = None,
        *,
        seed: int = 0,
        replacement: bool = True,
    ) -> None:
        if not isinstance(policy, SwiftPolicy):
            raise TypeError(_not_a_policy(policy))
        super().__init__(policy.weights(features), num_samples, seed=seed, replacement=replacement)
        self.policy = policy
        self.data_size = len(features)  # `tamis.callbacks.attach` compares it with the training data

    def state_dict(self) -> dict[str, Any]:
        """The state of `WeightedSampler` and the policy's digest."""
        return {**super().state_dict(), "policy": self.policy.digest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: the state is of a sampler with another policy or ``num_samples``.
        """
        if state["policy"] != self.policy.digest():
            raise ValueError("policy: the saved state is of a sampler with another policy; build it with that one")
        super().load_state_dict(state)
