"""The search of Swift Sampler, Algorithm 1: 40 short trainings find a sampling law of 10 parameters.

"Swift Sampler: Efficient Learning of Sampler by 10 Parameters", anonymous authors, section 3.3 and 3.4. Each trial
restores the weights w_share, trains them for a few epochs with samples drawn by a candidate law, and scores them on
held-out data; an optimizer proposes the next law. The law itself is in `tamis.samplers.swift.law`.

========= ================== ============================================================================
symbol    here               meaning
========= ================== ============================================================================
E_o       ``trials``         number of candidate laws, 40
E_f       the objective's    epochs of a trial, 5 in the paper: what the user's function trains for
w_share   ``model``          weights that each trial starts from: trained uniformly, *early* (see below)
P(z)      the score          of the fine-tuned weights on held-out data that is not the test data
z         `law_of`           a point of the unit cube <-> the paper's 10 parameters
========= ================== ============================================================================

**Deviations**: of the 10 parameters only 8 matter (T sees G through its ranks, and tau is normalised), so 8 are
searched: 3 knots, sorted; 4 differences between heights, the highest being 1; 1 angle of c with c_1 >= 0 (-c is the
law with H reversed). The middle of the cube is a uniform law, and heights of exactly 0 have a fair chance. The first
trial is the uniform law, so that the result is never a law that scored below it; the optimizer does not see it. The
default optimizer is not the paper's GP-UCB; how it was chosen, and on how little, is on the method's card.

**Unstated** in the paper: whether D_v is separate from the test data (it must be); the learning rate of a trial (the
user's; too small, and all laws score alike); when w_share is taken. Take it early: a model that has memorised its
noise gives wrong labels small losses, and no law on its features can tell them apart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tamis.core.checks import check_choice, check_int
from tamis.core.distributed import gather_objects, is_distributed, rank
from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.rng import check_seed, seed_of, seeded_globals
from tamis.features.table import FeatureTable
from tamis.optimizers.bayesian import INITIAL, OPTIMIZERS, propose
from tamis.policy.base import SearchInfo, fingerprint
from tamis.samplers.base import SamplerIterator
from tamis.samplers.swift.law import SwiftLaw
from tamis.samplers.swift.sampler import FeatureTables, SwiftPolicy
from tamis.samplers.weighted.sampler import WeightedSampler, effective_sample_size
from tamis.search.journal import Journal, run_trials

__all__ = ["dimensions", "law_of", "search_swift"]

Objective = Callable[[WeightedSampler], Any]

_KNOTS, _SLOPES = 3, 4


def dimensions(features: int) -> int:
    """How many parameters are searched for that many features: 8 for the paper's 2."""
    return _KNOTS + _SLOPES + features - 1


def law_of(point: np.ndarray, *, transform: str = "cgf") -> SwiftLaw:
    """The law at a point of the unit cube [D]: D = 7 + number of features - 1.

    Every law of the paper's space, up to scale of c and of v, sign of c (with H reversed) and order of the knots, is
    the law of some point.

    Args:
        point: 3 knots (any order), 4 differences between neighbouring heights (0.5 is none, 0 and 1 are -1 and +1;
            the highest is put at 1, the others cut off at 0), then one angle for each further feature (0.5 leaves
            it out, 0 and 1 leave out the ones before it).
        transform: as `SwiftLaw`.
    """
    knots, slopes, angles = np.split(np.asarray(point, dtype=np.float64), [_KNOTS, _KNOTS + _SLOPES])
    heights = np.concatenate([[0.0], np.cumsum(2 * slopes - 1)])
    heights = np.clip(heights - heights.max() + 1, 0.0, 1.0)
    coefficients = np.ones(1)
    for angle in np.pi * (angles - 0.5):
        coefficients = np.append(coefficients * np.cos(angle), np.sin(angle))
    return SwiftLaw(
        tuple(np.clip(coefficients, -1, 1).tolist()), tuple(np.sort(knots).tolist()), tuple(heights.tolist()), transform
    )


def search_swift(
    objective: Objective,
    features: FeatureTable,
    *,
    model: nn.Module | None = None,
    trials: int = 40,
    optimizer: str = "tpe",
    seed: int = 0,
    out: str | Path | None = None,
    metric: str = "eval_loss",
    num_samples: int | None = None,
    score_samples: int = 0,
    transform: str = "cgf",
    parallel: int = 1,
    spread: bool = True,
) -> SwiftPolicy:
    """Find the sampling law whose trials score best, Algorithm 1.

    The objective is the user's own training, as a function of the sampler::

        def fit(sampler):                                   # a plain loop: return a score, higher is better
            loader = DataLoader(train, batch_size=128, sampler=sampler)
            ...
            return accuracy(model, held_out)

        def trainer(sampler):                               # or return a Hugging Face Trainer
            trainer = Trainer(model, args, train_dataset=train, eval_dataset=held_out)
            attach(trainer, sampler)
            return trainer

    Args:
        objective: trains a few epochs with samples drawn by its argument. Returns a finite number, higher is better
            (NaN or infinite counts as a failed trial), or an object with ``train`` and ``evaluate``, whose
            ``evaluate()[metric]`` is then read; it counts downwards if its name ends in "loss".
        features: of the training data, in its order, by the shared weights (`sample_features`).
        model: if given, its parameters, buffers and training flags are put back to their present values, bit for
            bit, before each trial and at the end. Without it the objective sees to its starting point itself.
        trials: E_o, number of laws tried, >= 1. The first of them is the uniform law.
        optimizer: ``"tpe"``, ``"gp-ucb"`` (the paper's), ``"optuna-gp"`` or ``"random"``.
        seed: of the proposals and of each trial: trial k's sampler and the global generators of torch, numpy and
            Python are seeded by (seed, k), and the latter put back afterwards.
        out: folder for the journal and the policy. A search that finds its own journal there goes on from it (with
            the same or another ``trials``). The journal knows the objective by its name only: after a change inside
            it (epochs, learning rate, held-out data), use another folder.
        metric: see ``objective``.
        num_samples: draws an epoch; default: the size of the data.
        score_samples: samples that one scoring runs over, counted into the stored budget.
        transform: ``"cgf"``, or ``"cdf"`` for the paper's ablation.
        parallel: trials proposed at once after the first 9. On N processes use a multiple of N; the result depends
            on ``parallel``, never on N.
        spread: on several processes: True deals whole trials to them, which needs an objective that uses one process
            (a Trainer does not); False runs each trial on all of them together.

    Returns:
        The policy of the best trial (uniform unless some law scored above it), with its score, that of uniform
        sampling, cost in sample-forwards (backward = 2) and configuration.

    Raises:
        TypeError: an objective that is not a function, features that are not a `FeatureTable`, a model that is not an
            nn.Module.
        TamisError: the journal in ``out`` is of another search, no trial gave a finite score, a trial did not draw
            from its sampler.

    Warns:
        NoEffectWarning: no law scored above uniform sampling, so the policy is uniform.
    """
    for name, value in (("trials", trials), ("parallel", parallel)):
        check_int(name, value, low=1)
    check_int("score_samples", score_samples, low=0)
    if not callable(objective):
        raise TypeError(
            f"objective={type(objective).__name__}: must be a function sampler -> score (or -> Trainer), not its result"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: must be the nn.Module that the objective trains, or None")
    tables = FeatureTables(features)
    config = {
        "search": "swift",
        "objective": getattr(objective, "__qualname__", type(objective).__qualname__),
        "features": features.digest(),
        "model": None if model is None else fingerprint(dict(_tensors(model))),
        "optimizer": check_choice("optimizer", optimizer, OPTIMIZERS),
        "seed": check_seed(seed),
        "metric": metric,
        "num_samples": num_samples,
        "score_samples": score_samples,
        "transform": check_choice("transform", transform, ("cgf", "cdf")),
        "parallel": parallel,
    }
    journal = Journal(None if out is None else Path(out) / "journal.jsonl", config)
    dim = dimensions(len(tables.names))
    trial = _Trial(objective, tables, model, metric, num_samples, transform, seed, spread)

    def next_points(past: list[dict[str, Any]], count: int) -> np.ndarray:
        if not past:
            return np.concatenate([np.full((1, dim), 0.5), propose(optimizer, [], count - 1, dim, seed=seed)])
        # the optimizer is not told of the uniform trial: it would look for laws close to that one
        history = [(np.array(record["point"]), record["score"]) for record in past[1:]]
        return propose(optimizer, history, count, dim, seed=seed)

    try:
        records = run_trials(
            trial,
            next_points,
            journal,
            trials=trials,
            initial=1 + INITIAL,
            parallel=parallel,
            spread=spread,
            desc="swift search",
        )
    finally:
        trial.restore()
    scored = [record for record in records if record["score"] is not None]
    if not scored:
        raise TamisError(f"trials={trials}: none gave a finite score; lower the learning rate of the objective")
    best = max(scored, key=lambda record: record["score"])  # the first of equals, so uniform where nothing beats it
    draws = sum(record["draws"] for record in records)
    kept = ("optimizer", "metric", "num_samples", "transform", "parallel")
    info = SearchInfo(
        seed=seed,
        budget={"trials": trials, "sample_forwards": 3 * draws + trials * score_samples + len(features)},
        score=best["score"],
        config={**{name: config[name] for name in kept}, "uniform_score": records[0]["score"]},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # said below, with the scores
        policy = tables.policy(law_of(np.array(best["point"]), transform=transform), info)
    if out is not None:
        if rank() == 0:
            policy.save(Path(out))
        gather_objects(None)  # no rank returns before the policy can be loaded
    if best is records[0]:
        warnings.warn(_no_effect(scored), NoEffectWarning, stacklevel=2)
    return policy


def _no_effect(scored: list[dict[str, Any]]) -> str:
    """Why the search ends in the uniform law, and what to try."""
    score, count = scored[0]["score"], len(scored) - 1
    if count and all(record["score"] == score for record in scored):
        return (
            f"all {count + 1} trials scored {score:.6g}, so the policy is uniform: the objective does not depend on "
            "what is drawn; is the model that it scores the one that it trains, and its learning rate large enough?"
        )
    return (
        f"none of {count} laws scored above uniform sampling ({score:.6g}), so the policy is uniform: more trials, "
        "longer ones, or more held-out samples may find one; on clean data there may be none"
    )


class _Trial:
    """One trial of Algorithm 1 as a function of (number, point); owns the shared weights."""

    def __init__(
        self,
        objective: Objective,
        tables: FeatureTables,
        model: nn.Module | None,
        metric: str,
        num_samples: int | None,
        transform: str,
        seed: int,
        spread: bool,
    ) -> None:
        self.objective, self.tables, self.model = objective, tables, model
        self.metric, self.num_samples, self.transform = metric, num_samples, transform
        self.seed, self.alone = seed, spread and is_distributed()
        self.shared = {} if model is None else {name: value.detach().clone() for name, value in _tensors(model)}
        self.modes = [] if model is None else [(module, module.training) for module in model.modules()]

    def __call__(self, number: int, point: np.ndarray) -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # a uniform law is a trial like any other
            p = self.tables.weights(law_of(point, transform=self.transform))
            sampler = _CountingSampler(p, self.num_samples, seed=seed_of(self.seed, number))
        self.restore()
        with seeded_globals(seed_of(self.seed, number, 1)):
            score = self._score(self.objective(sampler))
        if not sampler.draws:
            raise TamisError(
                "the objective never drew from its sampler: pass it to the DataLoader (sampler=sampler) or to "
                "tamis.callbacks.attach(trainer, sampler)"
            )
        ess = effective_sample_size(p)
        return {"score": score if math.isfinite(score) else None, "draws": sampler.draws, "ess": ess}

    def restore(self) -> None:
        """Put the shared weights back, bit for bit, and the training flags; drop gradients."""
        if self.model is not None:
            with torch.no_grad():
                for name, value in _tensors(self.model):
                    value.copy_(self.shared[name])
            self.model.zero_grad(set_to_none=True)
            for module, training in self.modes:
                module.training = training

    def _score(self, result: Any) -> float:
        if not (hasattr(result, "train") and hasattr(result, "evaluate")):
            if not hasattr(result, "__float__"):
                raise TypeError(f"objective: must return its score or a Trainer, got {type(result).__name__}")
            return float(result)
        if self.alone:
            raise TamisError(
                "a Trainer spreads each trial over all processes by itself: pass spread=False, or give an objective "
                "that trains on one process and returns its score"
            )
        result.train()
        metrics = result.evaluate()
        if self.metric not in metrics:
            raise TamisError(f"metric={self.metric!r}: must be one of {', '.join(sorted(metrics))}")
        return -float(metrics[self.metric]) if self.metric.endswith("loss") else float(metrics[self.metric])


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


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())
