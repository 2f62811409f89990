"""The plain samplers: what the searches are measured against, and often all that one needs.

::

    sampler = TrimSampler(features["loss"], keep=0.7)                    # without the 30 % of highest loss
    sampler = BalancedSampler(labels)                                    # each class as often as any other
    sampler = TrimSampler(features["loss"], 0.7, labels=labels, balanced=True)   # both
    sampler = TemperatureSampler(counts, power=0.5)                      # p ~ counts ** 0.5

All are `WeightedSampler` with weights of a formula: one order on every rank, exact resume, any trainer. `search_trim`
finds the share that held-out data likes best; `CurriculumSampler` takes `Denoising` and `RHO` scores.

========================= ===========================================================================================
sampler                   weight of sample i
========================= ===========================================================================================
`TrimSampler`             1 for the lowest scores, else 0; times `BalancedSampler`'s of what is kept if ``balanced``
`BalancedSampler`         (number of samples of its class) ** -power
`TemperatureSampler`      weights[i] ** power (Arivazhagan et al., 2019, arXiv:1907.05019, for languages)
========================= ===========================================================================================
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from tamis.core.checks import check_range
from tamis.core.errors import NoEffectWarning
from tamis.core.types import ArrayLike
from tamis.features.classes import Labels, check_labels
from tamis.samplers.weighted.sampler import WeightedSampler, _check_weights

__all__ = ["BalancedSampler", "TemperatureSampler", "TrimSampler", "balanced_weights", "kept_lowest"]


def kept_lowest(scores: ArrayLike, keep: float, labels: Labels | None = None) -> np.ndarray:
    """Which samples have the lowest scores: bool [n], max(1, round(keep * n)) of them True; ties by position.

    Args:
        scores: finite, [n]; e.g. ``features["loss"]``.
        keep: share in (0, 1].
        labels: if given, the share is taken within each class, and at least one sample of each is kept.

    Raises:
        ValueError: scores that are not finite or not 1-D; ``keep`` out of range; labels as `check_labels`.
    """
    share = check_range("keep", keep, low=0, high=1, open_low=True)
    values = torch.as_tensor(scores).detach().cpu().double().numpy()
    if values.ndim != 1 or not values.size:
        raise ValueError(f"scores: must be 1-D with >= 1 values, got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"scores[{bad[0]}]={values[bad[0]]}: must be finite")
    classes = np.zeros(len(values), int) if labels is None else check_labels(labels, len(values)).numpy()
    kept = np.zeros(len(values), bool)
    for one in np.unique(classes):
        members = np.flatnonzero(classes == one)
        order = members[np.argsort(values[members], kind="stable")]
        kept[order[: max(1, round(share * len(order)))]] = True
    return kept


def balanced_weights(labels: Labels, power: float = 1.0, among: np.ndarray | None = None) -> np.ndarray:
    """(number of samples of the class) ** -power: float64 [n].

    Args:
        labels: as `check_labels`.
        power: in [0, 1]; 1 draws all classes equally often, 0 leaves them as they are.
        among: bool [n]; only these samples are counted, the others get weight 0.
    """
    classes = check_labels(labels)
    exponent = check_range("power", power, low=0, high=1)
    used = np.ones(len(classes), bool) if among is None else among
    _, which = np.unique(classes.numpy(), return_inverse=True)
    counts = np.bincount(which[used], minlength=which.max() + 1).astype(np.float64)
    return np.asarray(used * np.maximum(counts, 1.0)[which] ** -exponent)


def _balanced_size(labels: Labels, among: np.ndarray | None = None) -> int:
    """Draws without replacement that leave balance possible: the smallest class' size times the number of classes."""
    classes = check_labels(labels).numpy()
    counts = np.unique(classes if among is None else classes[among], return_counts=True)[1]
    return int(counts.min()) * len(counts)


class _FormulaSampler(WeightedSampler):
    """A weighted sampler whose state belongs to the settings that it was made with.

    Warns:
        NoEffectWarning: without replacement, all that may be drawn is drawn, whatever the weights.
    """

    def __init__(
        self, weights: np.ndarray, num_samples: int | None, *, seed: int, replacement: bool, settings: dict[str, Any]
    ) -> None:
        super().__init__(weights, num_samples, seed=seed, replacement=replacement)
        self.settings = settings
        drawn = self.weights[self.weights > 0]
        if not replacement and self.num_samples == len(drawn) and drawn.min() < drawn.max():
            warnings.warn(
                f"{type(self).__name__}: replacement=False draws each of the {len(drawn)} samples once an epoch, so "
                f"the weights change their order only; pass num_samples= well below {len(drawn)}, or replacement=True",
                NoEffectWarning,
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        """The state of `WeightedSampler` and the settings."""
        return {**super().state_dict(), "settings": self.settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state is of a sampler with other settings.
        """
        saved = state.get("settings", {})
        for name, value in self.settings.items():
            if saved.get(name) != value:
                raise ValueError(
                    f"{name}={value!r}, but the saved sampler had {saved.get(name)!r}: build the sampler as it was "
                    "when the state was saved, or start without the state"
                )
        super().load_state_dict(state)


class TrimSampler(_FormulaSampler):
    """Draws uniformly among the samples of lowest score, e.g. of lowest loss; the others are never drawn.

    Args:
        scores: finite, [n]; a column of a `FeatureTable`, minus a score where high is good.
        keep: share of the data that is kept, in (0, 1]; `search_trim` tunes it.
        num_samples: draws an epoch; default: n, or with ``replacement=False`` as many as are kept, with ``balanced``
            the size of the smallest class of them times the number of classes.
        labels: classes of the samples, for the two options that follow: integers [n] or the data set.
        per_class: take the share within each class, so that none is emptied.
        balanced: draw all classes equally often among what is kept.
        seed: with the epoch it fixes the order.
        replacement: False draws no sample twice in an epoch.

    Raises:
        TypeError, ValueError: scores, labels or share out of range; an option that needs labels without them.

    Warns:
        NoEffectWarning: everything is kept, or ``balanced`` draws without replacement all that is kept.
    """

    def __init__(
        self,
        scores: ArrayLike,
        keep: float,
        num_samples: int | None = None,
        *,
        labels: Labels | None = None,
        per_class: bool = False,
        balanced: bool = False,
        seed: int = 0,
        replacement: bool = True,
    ) -> None:
        if labels is None and (per_class or balanced):
            option = "per_class" if per_class else "balanced"
            raise ValueError(f"labels=None: must be given with {option}=True: integers [n] or the data set")
        kept = kept_lowest(scores, keep, labels if per_class else None)
        if labels is not None:
            labels = check_labels(labels, len(kept))
        weights = kept * 1.0 if labels is None or not balanced else balanced_weights(labels, among=kept)
        if labels is not None and balanced and not replacement and num_samples is None:
            num_samples = _balanced_size(labels, kept)
        settings = {"keep": float(keep), "per_class": per_class, "balanced": balanced}
        super().__init__(weights, num_samples, seed=seed, replacement=replacement, settings=settings)
        self.keep = float(keep)


class BalancedSampler(_FormulaSampler):
    """Draws every class equally often, whatever its size.

    Without replacement a class runs out while the epoch lasts, so that small classes come less often than others the
    more draws there are: with classes of 80, 15 and 5 and the default number the smallest makes a quarter of the draws.

    Args:
        labels: classes of the samples: integers [n], or the data set.
        power: in [0, 1]: 1 balances fully, 0.5 halfway (square root), 0 not at all.
        num_samples: draws an epoch; default: n, or with ``replacement=False`` the size of the smallest class times the
            number of classes.
        seed: with the epoch it fixes the order.
        replacement: False draws no sample twice in an epoch.

    Raises:
        TypeError, ValueError: labels as `check_labels`, power out of range.

    Warns:
        NoEffectWarning: all classes are of one size already, or all samples are drawn without replacement.
    """

    def __init__(
        self,
        labels: Labels,
        power: float = 1.0,
        num_samples: int | None = None,
        *,
        seed: int = 0,
        replacement: bool = True,
    ) -> None:
        weights = balanced_weights(labels, power)
        if not replacement and num_samples is None and power:
            num_samples = _balanced_size(labels)
        settings = {"power": float(power)}
        super().__init__(weights, num_samples, seed=seed, replacement=replacement, settings=settings)


class TemperatureSampler(_FormulaSampler):
    """Draws in proportion to ``weights ** power``.

    Args:
        weights: >= 0, [n], e.g. the size of each sample's source, or a quality.
        power: a in p ~ w ** a; 1 leaves the weights, 0 draws all positive ones alike, above 1 sharpens.
        num_samples: draws an epoch; default: n, or with ``replacement=False`` the number of weights above 0, of which
            there must be more than draws for the weights to count.
        seed: with the epoch it fixes the order.
        replacement: False draws no sample twice in an epoch.

    Raises:
        TypeError, ValueError: weights as `WeightedSampler`, power below 0.

    Warns:
        NoEffectWarning: all weights come out equal, or all samples are drawn without replacement.
    """

    def __init__(
        self,
        weights: ArrayLike,
        power: float,
        num_samples: int | None = None,
        *,
        seed: int = 0,
        replacement: bool = True,
    ) -> None:
        exponent = check_range("power", power, low=0)
        values = _check_weights(weights).array.astype(np.float64)  # names what is no weight
        peak = values.max()
        scaled = values / peak  # else large weights overflow
        powered = np.where(values > 0, scaled**exponent, 0.0)
        settings = {"power": exponent}
        super().__init__(powered, num_samples, seed=seed, replacement=replacement, settings=settings)
