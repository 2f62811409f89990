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
trial is the uniform law, so that the result is never a law that scored below it; the optimizer does not see it. After
it come the laws that one would try by hand (``plain``, ``previous``), so that the result is not worse than these by
the trials' score. A column ``class_frequency`` adds one parameter, ours: the exponent that balances classes. At the end
the winner is run again beside the uniform law (``repeats``, ``confirm``), see `confirm`: the score that is reported is
that of these runs, and a gain within their noise is none. The default optimizer
is not the paper's GP-UCB; how it was chosen, and on how little, is on the method's card.

**Unstated** in the paper: whether D_v is separate from the test data (it must be); the learning rate of a trial (the
user's; too small, and all laws score alike); when w_share is taken. Take it early: a model that has memorised its
noise gives wrong labels small losses, and no law on its features can tell them apart.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from tamis.core.distributed import broadcast_object, rank
from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.types import PathOrStr
from tamis.features.table import FeatureTable
from tamis.optimizers.bayesian import INITIAL, propose
from tamis.policy.base import fingerprint
from tamis.samplers.swift.law import SwiftLaw
from tamis.samplers.swift.sampler import FeatureTables, SwiftPolicy
from tamis.search.journal import Propose, Record
from tamis.search.metrics import Metric, check_metric, direction_key, metric_name
from tamis.search.run import SearchRun
from tamis.search.swift.config import SwiftConfig
from tamis.search.swift.confirm import Finalist, Verdict, finalists, no_effect, rerun, settled
from tamis.search.swift.space import first_points, law_of
from tamis.search.swift.trial import Objective, Trial, check_objective, objective_name, tensors_of

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
    metric: Metric = "eval_loss",
    greater_is_better: bool | None = None,
    num_samples: int | None = None,
    score_samples: int = 0,
    transform: str = "cgf",
    parallel: int = 1,
    spread: bool = True,
    plain: bool = True,
    previous: SwiftLaw | None = None,
    repeats: int = 2,
    confirm: Objective | None = None,
) -> SwiftPolicy:
    """Find the sampling law whose trials score best, Algorithm 1.

    Args:
        objective: trains a few epochs with samples drawn by its argument, a sampler. Returns a finite number, higher is
            better (NaN or infinite counts as a failed trial), or a Hugging Face Trainer that `attach` gave the sampler
            to; it is trained and scored by ``metric``.
        features: of the training data, in its order (`sample_features`, `consensus_loss`, your own columns): each a
            feature of the law, but for ``gradient`` and ``class_frequency``, see `SwiftLaw`.
        model: if given, its parameters, buffers and training flags are put back to their present values, bit for
            bit, before each trial and at the end. Without it the objective sees to its starting point itself.
        trials: number of laws tried; this and the other settings in full: `SwiftConfig`.
        optimizer: ``"tpe"``, ``"gp-ucb"`` (the paper's), ``"optuna-gp"`` or ``"random"``.
        seed: of proposals and trials.
        out: folder for the journal and the policy. A search that finds its own journal there goes on from it (with
            the same or another ``trials``). The journal knows the objective by its name only: after a change inside
            it (epochs, learning rate, held-out data), use another folder.
        metric: of a Trainer: a name, a function or a module of evaluate, see `tamis.search.metrics`.
        greater_is_better: of a Trainer's ``metric``; None: unless its name is one of an error (loss, wer, mse, ...).
        num_samples: draws an epoch; default: the size of the data.
        score_samples: samples that one scoring runs over, counted into the stored budget.
        transform: ``"cgf"``, or ``"cdf"`` for the paper's ablation.
        parallel: trials proposed at once after the first 9.
        spread: on several processes: True deals whole trials to them, which needs an objective that uses one process
            (a Trainer does not); False runs each trial on all of them together.
        plain: try the laws first that one would try by hand: trimming, balanced, both (`SwiftConfig`).
        previous: a law found before, e.g. ``policy.law``, tried among the first.
        repeats: runs of the winner and of the uniform law with other seeds. Their means are the scores of the policy,
            and it is the uniform one if the gain is within its standard error. 0: the luckiest trial's law and score.
        confirm: an objective like the first that scores on held-out data which ``objective`` does not use. The uniform
            law, the best plain one and the best of all are run with it, the best of these three is chosen, and it and
            the uniform law are run again to be reported. The journal knows it by its name: another one is run anew.

    Returns:
        The policy of the best law (uniform unless some law is better), with its score, that of uniform sampling,
        cost in sample-forwards (backward = 2) and settings.

    Raises:
        TypeError: an objective that is not a function, features of another type, a model that is not an nn.Module.
        TamisError: the journal in ``out`` is of another search, no trial gave a finite score, a trial did not draw
            from its sampler.

    Warns:
        NoEffectWarning: no law scored above uniform sampling, or not when it was run again: the policy is uniform.
    """
    check_metric(metric, greater_is_better)
    config = SwiftConfig(
        trials=trials, optimizer=optimizer, seed=seed, metric=metric_name(metric), num_samples=num_samples,
        score_samples=score_samples, transform=transform, parallel=parallel, plain=plain, repeats=repeats,
    )  # fmt: skip
    check_objective(objective, model)
    if confirm is not None:
        check_objective(confirm, model, "confirm")
    config = _as_begun(config, out)
    search = _Search(objective, FeatureTables(features), model, config, metric, greater_is_better, confirm, spread)
    policy, problem = search.run(features, out, previous)
    if problem is not None:
        warnings.warn(problem, NoEffectWarning, stacklevel=2)
    return policy


class _Search:
    """One search; see `search_swift`."""

    def __init__(
        self,
        objective: Objective,
        tables: FeatureTables,
        model: nn.Module | None,
        config: SwiftConfig,
        metric: Metric,
        greater_is_better: bool | None,
        confirm: Objective | None,
        spread: bool,
    ) -> None:
        self.objective, self.tables, self.model, self.config = objective, tables, model, config
        self.confirm, self.spread = confirm, spread
        self.direction = direction_key(metric, greater_is_better)
        self.balance = tables.frequency is not None
        self.trial = Trial(
            objective, lambda point: tables.weights(self.law(point)), model, metric=metric,
            greater_is_better=greater_is_better, num_samples=config.num_samples, seed=config.seed, alone=spread,
        )  # fmt: skip

    def law(self, point: np.ndarray) -> SwiftLaw:
        """The law at a point."""
        return law_of(point, transform=self.config.transform, balance=self.balance)

    def run(
        self, features: FeatureTable, out: PathOrStr | None, previous: SwiftLaw | None
    ) -> tuple[SwiftPolicy, str | None]:
        """The policy, and what is to be said of it if it is the uniform one."""
        config, spread = self.config, self.spread
        first = first_points(self.tables, transform=config.transform, plain=config.plain, previous=previous)
        data: dict[str, object] = {
            "objective": objective_name(self.objective),
            "features": features.digest(),
            "model": None if self.model is None else fingerprint(dict(tensors_of(self.model))),
            **self.direction,
        }
        if len(first) > 1:  # else it is the search of release 0.1
            data["first"] = list(first)
        if previous is not None:
            data["previous"] = list(previous.to_vector())
        with SearchRun("swift", config, out, data=data) as run:
            try:
                records = run.trials(
                    self.trial, _proposals(config, list(first.values())), trials=config.trials,
                    initial=len(first) + INITIAL, parallel=config.parallel, spread=spread, desc="swift search",
                )  # fmt: skip
                scored = [record for record in records if record["score"] is not None]
                if not scored:
                    raise TamisError(
                        f"trials={config.trials}: none gave a finite score; lower the learning rate of the objective"
                    )
                found = self._found(run, records, list(first))
            finally:
                self.trial.restore()
            runs, winner = found.runs, found.law.record
            forwards = 3 * sum(record["draws"] for record in [*records, *runs]) + len(features)
            forwards += (len(records) + len(runs)) * config.score_samples
            budget = {"trials": len(records) + len(runs), "sample_forwards": forwards}
            info = run.info(found.facts["score"], budget, **{k: v for k, v in found.facts.items() if k != "score"})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoEffectWarning)  # the caller says it, with the scores
                policy = self.tables.policy(self.law(np.array(winner["point"])), info)
            return run.finish(policy), no_effect(scored, found.doubt) if winner is records[0] else None

    def _found(self, run: SearchRun, records: list[Record], first: list[str]) -> Verdict:
        """The law that is returned, what is known of its score, and the runs that were made to know it."""
        laws = finalists(records, first)
        best = max(laws, key=lambda law: -np.inf if law.record["score"] is None else law.record["score"])
        if self.confirm is None and not self.config.repeats:
            facts: dict[str, float | None] = {"score": best.record["score"], "uniform_score": records[0]["score"]}
            return Verdict(best, facts, (), None)

        def again(chosen: list[Finalist], *, report: bool) -> list[Finalist]:
            return rerun(
                chosen, run.open(), self.trial, max(self.config.repeats, 1), self.confirm, spread=self.spread,
                report=report,
            )  # fmt: skip

        confirming = self.confirm is not None
        return settled(laws, best, again, choose=confirming, report=confirming)


def _as_begun(config: SwiftConfig, out: PathOrStr | None) -> SwiftConfig:
    """A search that was begun without plain laws, such as one of release 0.1, goes on without them."""
    began_plain = True
    path = None if out is None else Path(out) / "journal.jsonl"
    if path is not None and rank() == 0 and path.exists():
        try:
            with path.open() as file:
                began_plain = "first" in json.loads(file.readline())["config"]
        except (ValueError, KeyError, TypeError):  # the journal itself says what is wrong with it
            began_plain = True
    return replace(config, plain=config.plain and broadcast_object(began_plain))


def _proposals(config: SwiftConfig, first: list[np.ndarray]) -> Propose:
    """The uniform law and the other first ones, then what the optimizer proposes."""
    dim = len(first[0])

    def next_points(past: list[Record], count: int) -> np.ndarray:
        if not past:
            others = propose(config.optimizer, [], max(count - len(first), 0), dim, seed=config.seed)
            return np.concatenate([np.stack(first), others])[:count]
        # the optimizer is not told of the uniform trial: it would look for laws close to that one
        history = [(np.array(record["point"]), record["score"]) for record in past[1:]]
        return propose(config.optimizer, history, count, dim, seed=config.seed)

    return next_points
