"""One trial of Swift Sampler: a short training with samples drawn by a law, and its score."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from tamis.core.distributed import is_distributed
from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.models import training_flags
from tamis.core.rng import seed_of, seeded_globals
from tamis.samplers.base import SamplerIterator
from tamis.samplers.weighted.sampler import WeightedSampler, effective_sample_size
from tamis.search.journal import Record
from tamis.search.metrics import Metric, trainer_score

__all__ = ["Objective", "Trial", "check_objective", "objective_name", "tensors_of"]

Objective = Callable[[WeightedSampler], object]


def check_objective(objective: object, model: object, name: str = "objective") -> None:
    """Refuse an objective that is no function and a model that is none.

    Args:
        objective: what was given as one.
        model: what was given as one, or None.
        name: of the argument or state.

    Raises:
        TypeError: with the cure.
    """
    if not callable(objective):
        raise TypeError(
            f"{name}={type(objective).__name__}: must be a function sampler -> score (or -> Trainer), not its result"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: must be the nn.Module that the objective trains, or None")


def objective_name(objective: Objective) -> str:
    """What the journal knows an objective by.

    Args:
        objective: a function or callable object.
    """
    return str(getattr(objective, "__qualname__", type(objective).__qualname__))


class Trial:
    """One trial of Algorithm 1 as a function of (number, point); keeps the shared weights w_share.

    Args:
        objective: as `search_swift`.
        weights: a point -> the samples' weights [n].
        model: whose present weights each trial starts from, or None.
        metric: of a Trainer that the objective returns.
        greater_is_better: of ``metric``; None: what its name says.
        num_samples: draws an epoch; None: the size of the data.
        seed: of the search.
        alone: another trial runs on each of several processes.
    """

    def __init__(
        self,
        objective: Objective,
        weights: Callable[[np.ndarray], np.ndarray],
        model: nn.Module | None,
        *,
        metric: Metric,
        greater_is_better: bool | None = None,
        num_samples: int | None,
        seed: int,
        alone: bool,
    ) -> None:
        self.objective, self.weights, self.model, self.metric = objective, weights, model, metric
        self.greater_is_better = greater_is_better
        self.num_samples, self.seed = num_samples, seed
        self.alone = alone and is_distributed()
        self.shared = {} if model is None else {name: value.detach().clone() for name, value in tensors_of(model)}

    def __call__(self, number: int, point: np.ndarray, *, objective: Objective | None = None) -> Record:
        """Train and score.

        Args:
            number: of the trial, which seeds it.
            point: where the law lies.
            objective: in place of the search's own.

        Returns:
            ``score`` (None if it is not finite), ``draws`` and ``ess``, the effective sample size.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # a uniform law is a trial like any other
            p = self.weights(point)
            sampler = _CountingSampler(p, self.num_samples, seed=seed_of(self.seed, number))
        self.restore()
        flags = nullcontext() if self.model is None else training_flags(self.model)
        with flags, seeded_globals(seed_of(self.seed, number, 1)):
            score = self._score((objective or self.objective)(sampler))
        if not sampler.draws:
            raise TamisError(
                "the objective never drew from its sampler: pass it to the DataLoader (sampler=sampler) or to "
                "tamis.callbacks.attach(trainer, sampler)"
            )
        ess = effective_sample_size(p)
        return {"score": score if math.isfinite(score) else None, "draws": sampler.draws, "ess": ess}

    def restore(self) -> None:
        """Put the shared weights back, bit for bit; drop gradients."""
        if self.model is not None:
            with torch.no_grad():
                for name, value in tensors_of(self.model):
                    value.copy_(self.shared[name])
            self.model.zero_grad(set_to_none=True)

    def _score(self, result: Any) -> float:
        if not (hasattr(result, "train") and hasattr(result, "evaluate")):
            if not hasattr(result, "__float__"):
                raise TypeError(f"objective: must return its score or a Trainer, got {type(result).__name__}")
            if self.greater_is_better is not None:
                raise TamisError(
                    f"greater_is_better={self.greater_is_better}: is of a Trainer's metric, but the objective returned "
                    "its score, of which higher is better; return minus an error"
                )
            return float(result)
        if self.alone:
            raise TamisError(
                "a Trainer spreads each trial over all processes by itself: pass spread=False, or give an objective "
                "that trains on one process and returns its score"
            )
        result.train()
        return trainer_score(result, self.metric, self.greater_is_better)


class _CountingSampler(WeightedSampler):
    """A weighted sampler that knows how many indices were taken from it."""

    def __init__(self, weights: np.ndarray, num_samples: int | None, *, seed: int) -> None:
        super().__init__(weights, num_samples, seed=seed)
        self._passes: list[SamplerIterator] = []
        self._in_arrays = 0

    @property
    def draws(self) -> int:
        """Indices taken so far; a loader with workers takes some ahead."""
        return self._in_arrays + sum(taken.consumed for taken in self._passes)

    def __iter__(self) -> SamplerIterator:
        self._passes.append(super().__iter__())
        return self._passes[-1]

    def arrays(self) -> Iterator[np.ndarray]:
        return self._counted(super().arrays())

    def _counted(self, chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for chunk in chunks:
            self._in_arrays += len(chunk)
            yield chunk

    def __getstate__(self) -> dict[str, Any]:
        """A copy counts for itself."""
        return {**super().__getstate__(), "_passes": [], "_in_arrays": 0}


def tensors_of(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, by name.

    Args:
        model: any module.
    """
    return chain(model.named_parameters(), model.named_buffers())
