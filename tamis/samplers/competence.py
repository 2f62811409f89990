"""Competence-based pacing: uniform among the easiest c(t) of the data, c growing with the steps.

Platanios et al., 2019, "Competence-based curriculum learning for neural machine translation", arXiv:1903.09848.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.core.checks import check_int, check_range
from tamis.core.rng import numpy_generator
from tamis.policy.info import fingerprint
from tamis.samplers.base import StatefulSampler

__all__ = ["CompetenceSampler", "competence"]

STREAM = 0x636F6D70
BLOCK = 1 << 14


def competence(step: float, total: float, initial: float) -> float:
    """c(t) = min(1, sqrt(t (1 - c0^2) / T + c0^2)), the share of the data that may be drawn at step t, in (0, 1].

    Args:
        step: t, >= 0.
        total: T, > 0.
        initial: c0, in (0, 1].
    """
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
        """Draw t of the run looks at c(t); t counts on over the epochs.

        Args:
            epoch: an integer >= 0.
            start: how many indices are left out, in [0, len].
        """
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

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: the state is of another sampler.
        """
        for name, value in self._facts().items():
            if state[name] != value:
                raise ValueError(f"{name}={value!r}, but the saved sampler had {state[name]!r}: build it as it was")
        super().load_state_dict(state)

    def _facts(self) -> dict[str, Any]:
        return {"total": self.total, "initial": self.initial, "order": fingerprint(self.order)}
