"""Hand-written curricula: what a learned one has to beat. Each maps features to scores, higher is more wanted.

| scorer | wants | source |
|---|---|---|
| `Length` | long samples | Platanios et al., 2019 |
| `Rarity` | rare words: -sum log f(w) | Platanios et al., 2019 |
| `LogLikelihood` | what the model finds likely (or, with ``sign=-1``, unlikely) | - |
| `LossDifference` | what a second model finds likelier than the model in training | below |
| `Alignment` | a gradient along that of trusted data | Wang et al., 2020 |

`LossDifference` is two methods, by its second model: fine-tuned on trusted data it is the denoising curriculum of Wang
et al., 2018 ("Denoising neural machine translation training with trusted data and online data selection"); trained on
held-out data only it is RHO-LOSS (Mindermann et al., 2022), the reducible loss.

    base = curriculum_features(data, text=["de", "en"], model=model, collate=collate)
    both = base.with_group("trusted", log_likelihoods(tuned, data, collate=collate), ("sum", "per_token"))
    sampler = CurriculumSampler(LossDifference("trusted"), both, pool=16)

`CompetenceSampler` is a pacing and no score: Platanios et al., 2019, "Competence-based curriculum learning for neural
machine translation": uniform among the easiest c(t) of the data, c growing with the steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis._core.checks import check_int, check_range
from tamis._core.policy import fingerprint
from tamis._core.rng import numpy_generator
from tamis.samplers.base import StatefulSampler
from tamis.samplers.curriculum_state import CurriculumFeatures

__all__ = ["Alignment", "CompetenceSampler", "Length", "LogLikelihood", "LossDifference", "Rarity", "competence"]

STREAM = 0x636F6D70
BLOCK = 1 << 14


@dataclass(frozen=True)
class Length:
    """Tokens of all text columns (``sign=-1``: the fewest)."""

    sign: int = 1

    def __call__(self, features: CurriculumFeatures) -> Tensor:
        return self.sign * features.groups["length"].sum(1)


@dataclass(frozen=True)
class Rarity:
    """-sum log f(w) over the words of ``text`` (default: of the first text column); ``sign=-1``: the commonest."""

    text: str | None = None
    sign: int = 1

    def __call__(self, features: CurriculumFeatures) -> Tensor:
        side = self.text or features.columns["length"][0]
        mean = features.column("rarity", f"{side}.1-gram.mean")
        return self.sign * mean * features.column("length", side)


@dataclass(frozen=True)
class LogLikelihood:
    """Log-likelihood per token, or the sum; ``sign=-1``: the unlikely."""

    per_token: bool = True
    sign: int = 1

    def __call__(self, features: CurriculumFeatures) -> Tensor:
        return self.sign * features.column("log_likelihood", "per_token" if self.per_token else "sum")


@dataclass(frozen=True)
class LossDifference:
    """Loss of the model in training minus that of a second model, per token: denoising, or the reducible loss.

    Attributes:
        second: group of the second model's log-likelihoods (columns ``sum``, ``per_token``).
    """

    second: str

    def __call__(self, features: CurriculumFeatures) -> Tensor:
        return features.column(self.second, "per_token") - features.column("log_likelihood", "per_token")


@dataclass(frozen=True)
class Alignment:
    """Inner product of the sample's gradient with the validation gradient.

    Attributes:
        group: a group of one column that holds `first_order_rewards` of the samples.
    """

    group: str = "alignment"

    def __call__(self, features: CurriculumFeatures) -> Tensor:
        return features.groups[self.group][:, 0]


def competence(step: float, total: float, initial: float) -> float:
    """c(t) = min(1, sqrt(t (1 - c0^2) / T + c0^2)), the share of the data that may be drawn at step t, in (0, 1]."""
    return min(1.0, math.sqrt(step * (1 - initial**2) / total + initial**2))


class CompetenceSampler(StatefulSampler):
    """Draws uniformly from the easiest c(t) of the data.

    Args:
        difficulty: of each sample, float [n], e.g. ``Rarity()(features)``.
        total: draws T after which all data may be drawn.
        initial: c0, the share at the start, in (0, 1].
        num_samples: draws an epoch; default n.
        seed: with the epoch it fixes the order.
    """

    def __init__(
        self, difficulty: Tensor, *, total: int, initial: float = 0.01, num_samples: int | None = None, seed: int = 0
    ) -> None:
        if difficulty.ndim != 1 or not len(difficulty) or not bool(torch.isfinite(difficulty).all()):
            raise ValueError("difficulty: must be finite, 1-D and not empty")
        self.total = check_int("total", total, low=1)
        self.initial = check_range("initial", initial, low=0, high=1, open_low=True)
        self.order = np.argsort(difficulty.detach().cpu().double().numpy(), kind="stable")
        self.data_size: int = len(difficulty)
        super().__init__(len(difficulty) if num_samples is None else num_samples, seed=seed)

    def indices(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """Draw t of the run looks at c(t); t counts on over the epochs."""
        for block in range(start // BLOCK, (len(self) - 1) // BLOCK + 1):
            low, high = block * BLOCK, min((block + 1) * BLOCK, len(self))
            uniform = numpy_generator(STREAM, self.seed, epoch, block).random(high - low)
            steps = epoch * len(self) + np.arange(low, high)
            square = steps * (1 - self.initial**2) / self.total + self.initial**2
            allowed = np.maximum(np.minimum(1.0, np.sqrt(square)) * self.data_size, 1.0)
            picks = self.order[np.minimum((uniform * allowed).astype(np.int64), self.data_size - 1)]
            yield picks[max(start - low, 0) :]

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch, pacing and a digest of the order."""
        return {**super().state_dict(), **self._facts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state is of another sampler.
        """
        for name, value in self._facts().items():
            if state[name] != value:
                raise ValueError(f"{name}={value!r}, but the saved sampler had {state[name]!r}: build it as it was")
        super().load_state_dict(state)

    def _facts(self) -> dict[str, Any]:
        return {"total": self.total, "initial": self.initial, "order": fingerprint(self.order)}
