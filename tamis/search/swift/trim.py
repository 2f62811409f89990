"""The share to keep, tuned on held-out data: what every search of a law is measured against.

A trim is a law too, so the result is a `SwiftPolicy`: saved, shown and drawn from as any other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from torch import nn

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.rng import check_seed
from tamis.core.types import PathOrStr
from tamis.features.table import FeatureTable
from tamis.policy.base import fingerprint
from tamis.samplers.plain import kept_lowest
from tamis.samplers.swift.law import SwiftLaw
from tamis.samplers.swift.sampler import FeatureTables, SwiftPolicy, check_features
from tamis.search.journal import Record
from tamis.search.metrics import Metric, check_metric, direction_key, metric_name
from tamis.search.run import SearchRun, adjustable
from tamis.search.swift.confirm import Finalist, Verdict, rerun, settled
from tamis.search.swift.trial import Objective, Trial, check_objective, objective_name, tensors_of

__all__ = ["TrimConfig", "search_trim"]


@dataclass(frozen=True, kw_only=True)
class TrimConfig:
    """Settings of `search_trim`.

    Attributes:
        column: feature whose lowest values are kept.
        shares: of the data, each in (0, 1]; 1 keeps all.
        balance: exponents of the class' frequency, each in [0, 1]; 1 draws all classes equally often.
        repeats: runs of each share and balance, >= 1; their mean is the score.
        seed: of the runs, as `SwiftConfig`.
        metric: as `SwiftConfig`.
        num_samples: draws an epoch; None: the size of the data.
        score_samples: samples that one scoring runs over, counted into the stored budget.
    """

    column: str = "loss"
    shares: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    balance: tuple[float, ...] = (0.0,)
    repeats: int = adjustable(5)
    seed: int = 0
    metric: str = "eval_loss"
    num_samples: int | None = None
    score_samples: int = 0

    def __post_init__(self) -> None:
        for name, open_low in (("shares", True), ("balance", False)):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name}=(): must name at least one value to try")
            checked = tuple(check_range(name, value, low=0, high=1, open_low=open_low) for value in values)
            object.__setattr__(self, name, checked)
        check_int("repeats", self.repeats, low=1)
        check_int("score_samples", self.score_samples, low=0)
        if self.num_samples is not None:
            check_int("num_samples", self.num_samples, low=1)
        check_seed(self.seed)


def search_trim(
    objective: Objective,
    features: FeatureTable,
    column: str = "loss",
    *,
    shares: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3),
    balance: tuple[float, ...] = (0.0,),
    repeats: int = 5,
    model: nn.Module | None = None,
    seed: int = 0,
    out: PathOrStr | None = None,
    metric: Metric = "eval_loss",
    greater_is_better: bool | None = None,
    num_samples: int | None = None,
    score_samples: int = 0,
    spread: bool = True,
    confirm: Objective | None = None,
) -> SwiftPolicy:
    """Find the share of lowest ``column`` that trains best; each share is run ``repeats`` times.

    The best mean of several is partly luck, so without ``confirm`` the score is too good by some of its noise.

    Args:
        objective: trains a few epochs with samples drawn by its argument and scores, as in `search_swift`.
        features: of the training data, in its order; with ``class_frequency`` if ``balance`` is not 0.
        column: feature whose lowest values are kept; ``"loss_in_class"`` of `rank_in_class` trims within classes.
        shares: that are tried.
        balance: exponents of the class' frequency that are tried with each share: ``(0, 1)`` tries balanced trims too.
        repeats: runs of each; 8 shares x 5 are as many trials as `search_swift` has.
        model: if given, put back to its present weights before each run and at the end.
        seed: of the runs.
        out: folder for the journal and the policy; an interrupted search goes on there.
        metric: of a Trainer, as `search_swift`.
        greater_is_better: of a Trainer's ``metric``; None: unless its name is one of an error (loss, wer, mse, ...).
        num_samples: draws an epoch; default: the size of the data.
        score_samples: samples that one scoring runs over, counted into the stored budget.
        spread: on several processes, as `search_swift`.
        confirm: an objective like the first that scores on held-out data which ``objective`` does not use. The best
            share and keeping everything are each run ``repeats`` times with it, under other seeds: these means are
            reported, and everything is kept if the gain is within its standard error.

    Returns:
        The law that keeps the best share, ``policy.search.config["share"]``, as a policy of ``column`` alone.

    Raises:
        KeyError: there is no such column, or no ``class_frequency`` to balance by.
        TypeError, ValueError: arguments out of range.
        TamisError: the journal in ``out`` is of another search, or of each share a run gave no finite score: one
            failed run puts a share out.

    Warns:
        NoEffectWarning: keeping everything scored best, or not worse by ``confirm``.
    """
    check_metric(metric, greater_is_better)
    config = TrimConfig(
        column=column, shares=shares, balance=balance, repeats=repeats, seed=seed, metric=metric_name(metric),
        num_samples=num_samples, score_samples=score_samples,
    )  # fmt: skip
    check_objective(objective, model)
    if confirm is not None:
        check_objective(confirm, model, "confirm")
    search = _Search(objective, features, config, model, metric, greater_is_better, confirm, spread)
    policy, doubt = search.run(features, out)
    if policy.search is not None and policy.search.config["share"] == 1 and not policy.law.balance:
        why = doubt or f"keeping everything scored best ({policy.search.score:.6g})"
        warnings.warn(f"search_trim: {why}, so the policy is uniform", NoEffectWarning, stacklevel=2)
    return policy


class _Search:
    """One search; see `search_trim`."""

    def __init__(
        self,
        objective: Objective,
        features: FeatureTable,
        config: TrimConfig,
        model: nn.Module | None,
        metric: Metric,
        greater_is_better: bool | None,
        confirm: Objective | None,
        spread: bool,
    ) -> None:
        self.config, self.confirm, self.spread = config, confirm, spread
        self.tables = _tables(features, config.column, needs_classes=any(config.balance))
        self.tried = [(share, power) for share in config.shares for power in config.balance]
        self.laws = [_law(self.tables, share, power) for share, power in [*self.tried, (1.0, 0.0)]]  # uniform: the last
        self.trial = Trial(
            objective, lambda point: self.tables.weights(self.laws[int(point[0])]), model, metric=metric,
            greater_is_better=greater_is_better, num_samples=config.num_samples, seed=config.seed, alone=spread,
        )  # fmt: skip
        self.data = {
            "objective": objective_name(objective),
            "features": features.digest(),
            "model": None if model is None else fingerprint(dict(tensors_of(model))),
            **direction_key(metric, greater_is_better),
        }

    def run(self, features: FeatureTable, out: PathOrStr | None) -> tuple[SwiftPolicy, str | None]:
        """The policy, and why it does not trim although the search did."""
        config, tried = self.config, self.tried
        count, points = len(tried) * config.repeats, np.arange(len(tried), dtype=np.float64)[:, None]
        with SearchRun("trim", config, out, data=self.data) as run:
            try:
                records = run.trials(
                    self.trial, lambda past, wanted: points[(len(past) + np.arange(wanted)) % len(tried)], trials=count,
                    initial=count, spread=self.spread, desc="trim search",
                )  # fmt: skip
                means = [_mean(records[k :: len(tried)]) for k in range(len(tried))]
                best = int(np.argmax([-np.inf if mean is None else mean for mean in means]))
                if means[best] is None:
                    raise TamisError(
                        f"trials={count}: of each share a run gave no finite score; lower the learning rate of the "
                        "objective"
                    )
                found = None if self.confirm is None else self._confirmed(run, best, means)
            finally:
                self.trial.restore()
            runs = [*records, *(() if found is None else found.runs)]
            forwards = 3 * sum(r["draws"] for r in runs) + len(runs) * config.score_samples + len(features)
            facts = {f"score.{share:g}.{power:g}": mean for (share, power), mean in zip(tried, means, strict=True)}
            score = means[best]
            if found is not None:
                best = int(found.law.record["point"][0])
                score, facts = found.facts["score"], {**facts, **{k: v for k, v in found.facts.items() if k != "score"}}
            share, power = [*tried, (1.0, 0.0)][best]
            budget = {"trials": len(runs), "sample_forwards": forwards}
            info = run.info(score, budget, share=share, power=power, **facts)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoEffectWarning)  # the caller says it, with the score
                policy = self.tables.policy(self.laws[best], info)
            return run.finish(policy), None if found is None else found.doubt

    def _confirmed(self, run: SearchRun, best: int, means: list[float | None]) -> Verdict:
        """The best share and keeping everything, by the other objective."""
        keep_all = self.tried.index((1.0, 0.0)) if (1.0, 0.0) in self.tried else len(self.tried)

        def finalist(k: int) -> Finalist:
            share, power = [*self.tried, (1.0, 0.0)][k]
            score = means[k] if k < len(means) else None
            return Finalist(f"share {share:g}, balance {power:g}", {"trial": k, "point": [float(k)], "score": score})

        def again(laws: list[Finalist], *, report: bool) -> list[Finalist]:
            return rerun(
                laws, run.open(), self.trial, self.config.repeats, self.confirm, spread=self.spread, report=report
            )

        return settled([finalist(keep_all)], finalist(best), again, report=True)


def _tables(features: FeatureTable, column: str, *, needs_classes: bool) -> FeatureTables:
    """Of ``column`` alone, and the classes' frequencies if they are needed."""
    check_features(features)
    check_choice("column", column, features.column_names)
    if needs_classes and "class_frequency" not in features:
        raise KeyError(
            "features 'class_frequency' is missing, by which balance= weighs: add it with "
            "features.with_columns({'class_frequency': class_frequency(labels)})"
        )
    return FeatureTables(features.select_columns([column, *(["class_frequency"] if needs_classes else [])]))


def _law(tables: FeatureTables, share: float, power: float) -> SwiftLaw:
    """1 on the lowest ``share``, 0 above, times frequency ** -power."""
    if share == 1:
        return SwiftLaw((1.0,), (0.5, 0.5, 0.5), (1.0,) * 5, "cdf", power)
    t = np.sort(tables.cdfs[0])
    kept = int(kept_lowest(t, share).sum())
    above = t[t > t[kept - 1]]
    knot = float(t[kept - 1] + above[0]) / 2 if len(above) else 1.0
    return SwiftLaw((1.0,), (knot, knot, 1.0), (1.0, 1.0, 0.0, 0.0, 0.0), "cdf", power)


def _mean(records: list[Record]) -> float | None:
    """Of all runs; None if one of them failed: the mean of the lucky ones would be too good."""
    scores = [record["score"] for record in records]
    return None if None in scores else float(np.mean(scores))
