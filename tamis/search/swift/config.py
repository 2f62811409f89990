"""The settings of a search of Swift Sampler."""

from __future__ import annotations

from dataclasses import dataclass

from tamis.core.checks import check_choice, check_int
from tamis.core.rng import check_seed
from tamis.optimizers.bayesian import OPTIMIZERS
from tamis.search.run import adjustable

__all__ = ["SwiftConfig"]


@dataclass(frozen=True, kw_only=True)
class SwiftConfig:
    """Settings of `search_swift`.

    Attributes:
        trials: E_o, number of laws tried, >= 1. The first of them is the uniform law.
        optimizer: ``"tpe"``, ``"gp-ucb"`` (the paper's), ``"optuna-gp"`` or ``"random"``.
        seed: of the proposals and of each trial: trial k's sampler and the global generators of torch, numpy and
            Python are seeded by (seed, k), and the latter put back afterwards.
        metric: the entry of a Trainer's ``evaluate()`` that is the score; it counts downwards if its name ends in
            "loss".
        num_samples: draws an epoch; None: the size of the data.
        score_samples: samples that one scoring runs over, counted into the stored budget.
        transform: ``"cgf"``, or ``"cdf"`` for the paper's ablation.
        parallel: trials proposed at once after the first 9. On N processes use a multiple of N; the result depends
            on ``parallel``, never on N.
    """

    trials: int = adjustable(40)
    optimizer: str = "tpe"
    seed: int = 0
    metric: str = "eval_loss"
    num_samples: int | None = None
    score_samples: int = 0
    transform: str = "cgf"
    parallel: int = 1

    def __post_init__(self) -> None:
        for name in ("trials", "parallel"):
            check_int(name, getattr(self, name), low=1)
        if self.num_samples is not None:
            check_int("num_samples", self.num_samples, low=1)
        check_int("score_samples", self.score_samples, low=0)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("transform", self.transform, ("cgf", "cdf"))
        check_seed(self.seed)
