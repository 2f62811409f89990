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
        trials: E_o, number of laws tried, >= 1. The first of them are the uniform law and, with ``plain``, known ones.
        optimizer: ``"tpe"``, ``"gp-ucb"`` (the paper's), ``"optuna-gp"`` or ``"random"``.
        seed: of the proposals and of each trial: trial k's sampler and the global generators of torch, numpy and
            Python are seeded by (seed, k), and the latter put back afterwards.
        metric: the entry of a Trainer's ``evaluate()`` that is the score; an error counts downwards (`is_error`).
        num_samples: draws an epoch; None: the size of the data.
        score_samples: samples that one scoring runs over, counted into the stored budget.
        transform: ``"cgf"``, or ``"cdf"`` for the paper's ablation.
        parallel: trials proposed at once after the first 9. On N processes use a multiple of N; the result depends
            on ``parallel``, never on N.
        plain: the first laws are, after the uniform one, those that trim the first feature at three shares, and with a
            column ``class_frequency`` the balanced law and these three balanced.
        repeats: runs of the best and the uniform law after the search, with other seeds, whose means are reported;
            with ``confirm``: also runs of each finalist. 0 for none.
    """

    trials: int = adjustable(40)
    optimizer: str = "tpe"
    seed: int = 0
    metric: str = "eval_loss"
    num_samples: int | None = None
    score_samples: int = 0
    transform: str = "cgf"
    parallel: int = 1
    plain: bool = adjustable(True)
    repeats: int = adjustable(2)

    def __post_init__(self) -> None:
        for name in ("trials", "parallel"):
            check_int(name, getattr(self, name), low=1)
        if self.num_samples is not None:
            check_int("num_samples", self.num_samples, low=1)
        for name in ("score_samples", "repeats"):
            check_int(name, getattr(self, name), low=0)
        if not isinstance(self.plain, bool):
            raise TypeError(f"plain={self.plain!r}: must be True or False")
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("transform", self.transform, ("cgf", "cdf"))
        check_seed(self.seed)
