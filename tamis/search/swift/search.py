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

import warnings

import numpy as np
from torch import nn

from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.types import PathOrStr
from tamis.features.table import FeatureTable
from tamis.optimizers.bayesian import INITIAL, propose
from tamis.policy.base import fingerprint
from tamis.samplers.swift.sampler import FeatureTables, SwiftPolicy
from tamis.search.journal import Propose, Record
from tamis.search.run import SearchRun
from tamis.search.swift.config import SwiftConfig
from tamis.search.swift.space import dimensions, law_of
from tamis.search.swift.trial import Objective, Trial, tensors_of

__all__ = ["search_swift"]


def search_swift(
    objective: Objective,
    features: FeatureTable,
    *,
    model: nn.Module | None = None,
    trials: int = 40,
    optimizer: str = "tpe",
    seed: int = 0,
    out: PathOrStr | None = None,
    metric: str = "eval_loss",
    num_samples: int | None = None,
    score_samples: int = 0,
    transform: str = "cgf",
    parallel: int = 1,
    spread: bool = True,
) -> SwiftPolicy:
    """Find the sampling law whose trials score best, Algorithm 1.

    Args:
        objective: trains a few epochs with samples drawn by its argument, a sampler. Returns a finite number, higher is
            better (NaN or infinite counts as a failed trial), or an object with ``train`` and ``evaluate``, such as a
            Hugging Face Trainer that `attach` gave the sampler to; its ``evaluate()[metric]`` is then read.
        features: of the training data, in its order, by the shared weights (`sample_features`).
        model: if given, its parameters, buffers and training flags are put back to their present values, bit for
            bit, before each trial and at the end. Without it the objective sees to its starting point itself.
        trials: number of laws tried; this and the other settings in full: `SwiftConfig`.
        optimizer: ``"tpe"``, ``"gp-ucb"`` (the paper's), ``"optuna-gp"`` or ``"random"``.
        seed: of proposals and trials.
        out: folder for the journal and the policy. A search that finds its own journal there goes on from it (with
            the same or another ``trials``). The journal knows the objective by its name only: after a change inside
            it (epochs, learning rate, held-out data), use another folder.
        metric: see ``objective``; it counts downwards if its name ends in "loss".
        num_samples: draws an epoch; default: the size of the data.
        score_samples: samples that one scoring runs over, counted into the stored budget.
        transform: ``"cgf"``, or ``"cdf"`` for the paper's ablation.
        parallel: trials proposed at once after the first 9.
        spread: on several processes: True deals whole trials to them, which needs an objective that uses one process
            (a Trainer does not); False runs each trial on all of them together.

    Returns:
        The policy of the best trial (uniform unless some law scored above it), with its score, that of uniform
        sampling, cost in sample-forwards (backward = 2) and settings.

    Raises:
        TypeError: an objective that is not a function, features of another type, a model that is not an nn.Module.
        TamisError: the journal in ``out`` is of another search, no trial gave a finite score, a trial did not draw
            from its sampler.

    Warns:
        NoEffectWarning: no law scored above uniform sampling, so the policy is uniform.
    """
    config = SwiftConfig(
        trials=trials, optimizer=optimizer, seed=seed, metric=metric, num_samples=num_samples,
        score_samples=score_samples, transform=transform, parallel=parallel,
    )  # fmt: skip
    policy, problem = _search(objective, features, model, config, out, spread)
    if problem is not None:
        warnings.warn(problem, NoEffectWarning, stacklevel=2)
    return policy


def _search(
    objective: Objective,
    features: FeatureTable,
    model: nn.Module | None,
    config: SwiftConfig,
    out: PathOrStr | None,
    spread: bool,
) -> tuple[SwiftPolicy, str | None]:
    """The policy, and what is to be said of it if it is the uniform one."""
    _check(objective, model)
    tables = FeatureTables(features)
    data = {
        "objective": getattr(objective, "__qualname__", type(objective).__qualname__),
        "features": features.digest(),
        "model": None if model is None else fingerprint(dict(tensors_of(model))),
    }
    trial = Trial(objective, tables, model, config, alone=spread)
    with SearchRun("swift", config, out, data=data) as run:
        try:
            records = run.trials(
                trial, _proposals(config, dimensions(len(tables.names))),
                trials=config.trials, initial=1 + INITIAL, parallel=config.parallel, spread=spread, desc="swift search",
            )  # fmt: skip
        finally:
            trial.restore()
        scored = [record for record in records if record["score"] is not None]
        if not scored:
            raise TamisError(
                f"trials={config.trials}: none gave a finite score; lower the learning rate of the objective"
            )
        best = max(scored, key=lambda record: record["score"])  # the first of equals: uniform where nothing beats it
        forwards = 3 * sum(record["draws"] for record in records) + config.trials * config.score_samples + len(features)
        info = run.info(
            best["score"],
            {"trials": config.trials, "sample_forwards": forwards},
            uniform_score=records[0]["score"],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # the caller says it, with the scores
            policy = tables.policy(law_of(np.array(best["point"]), transform=config.transform), info)
        return run.finish(policy), _no_effect(scored) if best is records[0] else None


def _check(objective: object, model: object) -> None:
    if not callable(objective):
        raise TypeError(
            f"objective={type(objective).__name__}: must be a function sampler -> score (or -> Trainer), not its result"
        )
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: must be the nn.Module that the objective trains, or None")


def _proposals(config: SwiftConfig, dim: int) -> Propose:
    """The uniform law first, then what the optimizer proposes."""

    def next_points(past: list[Record], count: int) -> np.ndarray:
        if not past:
            others = propose(config.optimizer, [], count - 1, dim, seed=config.seed)
            return np.concatenate([np.full((1, dim), 0.5), others])
        # the optimizer is not told of the uniform trial: it would look for laws close to that one
        history = [(np.array(record["point"]), record["score"]) for record in past[1:]]
        return propose(config.optimizer, history, count, dim, seed=config.seed)

    return next_points


def _no_effect(scored: list[Record]) -> str:
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
