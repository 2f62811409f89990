"""Settings of DimReg; `tamis.pruners.dimreg.pruner` has the citation and the symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.rng import check_seed
from tamis.pruners.gates import Table

__all__ = ["CLOSED", "OPEN", "DimRegConfig", "check_keep", "gate_costs"]

OPEN, CLOSED = 4.0, -12.0  # logits between which mirror descent moves a gate: phi = 0.982 and 6e-6


def check_keep(keep: float) -> float:
    """Return ``keep`` if it is a share in (0, 1]; to percent, say which share was meant.

    Raises:
        TypeError: not a number.
        ValueError: out of range.
    """
    try:
        return check_range("keep", keep, low=0, high=1, open_low=True)
    except ValueError as error:
        if 1 < keep <= 100:
            raise ValueError(f"{error}, a share; did you mean {keep / 100:g}?") from None
        raise


def gate_costs(tables: Sequence[Table], keep: float, budget_bytes: int | None) -> tuple[Tensor, float]:
    """Cost per gate [n], float64, and the budget in the same unit: dimensions, or bytes with ``budget_bytes``.

    Raises:
        TypeError: ``budget_bytes`` is no int.
        ValueError: it holds not even one dimension.
    """
    widths = [table.width for table in tables]
    if budget_bytes is None:
        return torch.ones(sum(widths), dtype=torch.float64), max(1.0, round(keep * sum(widths)))
    cheapest = min(tables, key=lambda table: table.dim_bytes)
    try:
        check_int("budget_bytes", budget_bytes, low=cheapest.dim_bytes)
    except ValueError as error:
        raise ValueError(f"{error}, the bytes of one dimension of the smallest table, {cheapest.field!r}") from None
    per_table = torch.tensor([float(table.dim_bytes) for table in tables], dtype=torch.float64)
    return per_table.repeat_interleave(torch.tensor(widths)), float(budget_bytes)


@dataclass(frozen=True)
class DimRegConfig:
    """Settings of `DimReg`; `paper` gives the published ones.

    Attributes:
        split: ``budget`` (the split lies where the budget is met) or ``mean`` (the thesis: about the mean).
        strength: lambda > 0, for ``mean``. With ``budget`` it is no knob: the split and the gates' speed do not depend
            on it, it only scales the logged penalty, unless it is so small (that of a task gradient on one gate) that
            the task can hold a gate against the split. Paper: 5e-5.
        temperature: t, in (-1, 1) with ``budget``. Paper: 1.2, 1.5, 1.7 or 2.
        pair_temperature: of the pairs' penalty, in (-1, 1); ``mean`` only, no effect with ``budget``. Paper: t.
        pair_share: beta, in [0, 1]; 0 turns redundancy pruning off. Paper: 0.1.
        refresh_every: optimizer steps between two looks at the tables (spectrum, redundant pairs); None: a fiftieth
            of the training, with ``mean`` 1000 steps. Paper: 5 epochs.
        min_rows: tables with fewer rows are not searched for pairs.
        gate_lr: learning rate of Adam on the gates; ``mean`` only, no effect with ``budget``. Paper: 1e-3, apparently.
        warm_up: share of the training in which every gate is open (``budget`` only).
        decide_by: share of the training after which the split is fixed (``budget`` only).
        closing: share of the training that one gate needs to close (``budget`` only).
        memory: decay of the running mean of the importance, in [0, 1).
        threshold: gamma, in (0, 0.5). Paper: 0.001.
        init_logit, init_spread: mean and standard deviation of the gates' logits at the start.
        seed: of that spread.
    """

    split: str = "budget"
    strength: float = 1.0
    temperature: float = 0.0
    pair_temperature: float = 0.0
    pair_share: float = 0.1
    refresh_every: int | None = None
    min_rows: int = 30
    gate_lr: float = 1e-3
    warm_up: float = 0.05
    decide_by: float = 0.4
    closing: float = 0.05
    memory: float = 0.99
    threshold: float = 1e-3
    init_logit: float = OPEN
    init_spread: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("split", self.split, ("budget", "mean"))
        bound = 1.0 if self.split == "budget" else float("inf")
        check_range("temperature", self.temperature, low=-bound, high=bound, open_low=True, open_high=True)
        check_range("pair_temperature", self.pair_temperature, low=-1, high=1, open_low=True, open_high=True)
        for name in ("strength", "gate_lr"):
            check_range(name, getattr(self, name), low=0, open_low=True)
        check_range("pair_share", self.pair_share, low=0, high=1)
        if self.refresh_every is not None:
            check_int("refresh_every", self.refresh_every, low=1)
        check_int("min_rows", self.min_rows, low=3)
        check_range("warm_up", self.warm_up, low=0, high=1, open_high=True)
        check_range("decide_by", self.decide_by, low=self.warm_up, high=1, open_low=True)
        check_range("closing", self.closing, low=0, high=1, open_low=True)
        check_range("memory", self.memory, low=0, high=1, open_high=True)
        check_range("threshold", self.threshold, low=0, high=0.5, open_low=True, open_high=True)
        check_range("init_logit", self.init_logit)
        check_range("init_spread", self.init_spread, low=0)
        check_seed(self.seed)

    @classmethod
    def paper(cls, temperature: float = 1.2, **changes: Any) -> DimRegConfig:
        """The thesis' form and values; what it leaves open (start of the gates) is ours. ``changes`` override."""
        values: dict[str, Any] = {
            "split": "mean",
            "strength": 5e-5,
            "temperature": temperature,
            "init_logit": 0.0,
            "init_spread": 1.0,
        }
        return cls(**(values | changes))
