"""Settings of DimReg, one class for each way of splitting gates; `tamis.pruners.dimreg` has the symbols."""

from __future__ import annotations

import warnings
from dataclasses import InitVar, dataclass
from typing import Any

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.rng import check_seed

__all__ = ["CLOSED", "OPEN", "DimRegConfig", "ThesisConfig"]

OPEN, CLOSED = 4.0, -12.0  # logits between which mirror descent moves a gate: phi = 0.982 and 6e-6


@dataclass(frozen=True, kw_only=True)
class _Common:
    """What both ways of splitting share.

    Attributes:
        pair_share: beta, in [0, 1]; 0 turns redundancy pruning off. Paper: 0.1.
        min_rows: tables with fewer rows are not searched for pairs.
        threshold: gamma, in (0, 0.5). Paper: 0.001.
        seed: of the spread of the gates' logits at the start.
    """

    strength: float = 1.0
    temperature: float = 0.0
    pair_share: float = 0.1
    refresh_every: int | None = None
    min_rows: int = 30
    threshold: float = 1e-3
    init_logit: float = OPEN
    init_spread: float = 0.0
    seed: int = 0

    def _check(self, temperature_bound: float) -> None:
        bound = temperature_bound
        check_range("temperature", self.temperature, low=-bound, high=bound, open_low=True, open_high=True)
        check_range("strength", self.strength, low=0, open_low=True)
        check_range("pair_share", self.pair_share, low=0, high=1)
        if self.refresh_every is not None:
            check_int("refresh_every", self.refresh_every, low=1)
        check_int("min_rows", self.min_rows, low=3)
        check_range("threshold", self.threshold, low=0, high=0.5, open_low=True, open_high=True)
        check_range("init_logit", self.init_logit)
        check_range("init_spread", self.init_spread, low=0)
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class ThesisConfig(_Common):
    """The thesis' form: gates are pushed apart about their mean, by Adam. There is no budget: t decides the share.

    Attributes:
        strength: lambda > 0. Paper: 5e-5.
        temperature: t. Paper: 1.2, 1.5, 1.7 or 2.
        pair_temperature: of the pairs' penalty, in (-1, 1). Paper: t, at which both gates of a pair close.
        pair_share: beta, in [0, 1]; 0 turns redundancy pruning off. Paper: 0.1.
        refresh_every: optimizer steps between two searches for pairs; None: 1000. Paper: 5 epochs.
        min_rows: tables with fewer rows are not searched for pairs.
        gate_lr: learning rate of Adam on the gates. Paper: 1e-3, apparently.
        threshold: gamma, in (0, 0.5). Paper: 0.001.
        init_logit, init_spread: mean and standard deviation of the gates' logits at the start; ours.
        seed: of that spread.
    """

    strength: float = 5e-5
    temperature: float = 1.2
    init_logit: float = 0.0
    init_spread: float = 1.0
    pair_temperature: float = 0.0
    gate_lr: float = 1e-3

    def __post_init__(self) -> None:
        self._check(float("inf"))
        check_range("pair_temperature", self.pair_temperature, low=-1, high=1, open_low=True, open_high=True)
        check_range("gate_lr", self.gate_lr, low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class DimRegConfig(_Common):
    """Settings of `DimReg`; the split lies where the budget is met. `paper` gives the published form.

    Attributes:
        strength: lambda > 0. No knob: the split and the gates' speed do not depend on it, it only scales the logged
            penalty, unless it is so small (that of a task gradient on one gate) that the task can hold a gate
            against the split.
        temperature: t, in (-1, 1).
        pair_share: beta, in [0, 1]; 0 turns redundancy pruning off. Paper: 0.1.
        refresh_every: optimizer steps between two looks at the tables (spectrum, redundant pairs); None: a fiftieth
            of the training.
        min_rows: tables with fewer rows are not searched for pairs.
        warm_up: share of the training in which every gate is open, in [0, 1). Until release 0.1 it was 0.05, too
            early for large tables to have learned what they need.
        decide_by: share of the training after which the split is fixed, in (warm_up, 1]; in release 0.1 0.4.
        closing: share of the training that one gate needs to close, in (0, 1]; in release 0.1 0.05.
        memory: decay of the running mean of the importance, in [0, 1).
        threshold: gamma, in (0, 0.5). Paper: 0.001.
        init_logit, init_spread: mean and standard deviation of the gates' logits at the start.
        seed: of that spread.
        split: the old way to choose: ``"mean"`` makes a `ThesisConfig`. Leave it out.
    """

    warm_up: float = 0.3
    decide_by: float = 0.33
    closing: float = 0.01
    memory: float = 0.99
    split: InitVar[str] = "budget"

    def __new__(cls, *, split: str = "budget", **options: Any) -> Any:
        """A `DimRegConfig`, or with the old ``split="mean"`` a `ThesisConfig` of these options."""
        if split != "mean":
            return super().__new__(cls)
        warnings.warn('DimRegConfig(split="mean") is deprecated: write ThesisConfig(...)', FutureWarning, stacklevel=2)
        start = {"strength": 1.0, "temperature": 0.0, "init_logit": OPEN, "init_spread": 0.0}  # as it was
        mine = {name: value for name, value in options.items() if name not in _BUDGET_ONLY}
        return ThesisConfig(**(start | mine))

    def __post_init__(self, split: str) -> None:
        check_choice("split", split, ("budget", "mean"))
        self._check(1.0)
        check_range("warm_up", self.warm_up, low=0, high=1, open_high=True)
        check_range("decide_by", self.decide_by, low=self.warm_up, high=1, open_low=True)
        check_range("closing", self.closing, low=0, high=1, open_low=True)
        check_range("memory", self.memory, low=0, high=1, open_high=True)

    @classmethod
    def paper(cls, temperature: float = 1.2, **changes: Any) -> ThesisConfig:
        """The thesis' form and values.

        Args:
            temperature: t.
            changes: further fields of `ThesisConfig`.
        """
        return ThesisConfig(**({"temperature": temperature} | changes))


_BUDGET_ONLY = ("warm_up", "decide_by", "closing", "memory")
