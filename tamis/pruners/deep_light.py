"""DeepLight: embedding values are pruned by size, a few more every so many steps, while the model trains.

W. Deng, J. Pan, T. Zhou, D. Kong, A. Flores, G. Lin, "DeepLight: Deep Lightweight Feature Interactions for Accelerating
CTR Predictions in Ad Serving", WSDM 2021, arXiv:2002.06987. After a warm-up, every ``every`` steps: sparsity =
target x (1 - D^(k / Omega)), k steps after the warm-up, one threshold over all embedding tables, values below it are
set to zero in the table; they may grow back until the next time.

Deviations: only the embedding tables (the paper prunes the layers and the field matrix too). The paper's D = 0.99,
Omega = 100 reach the target only after tens of thousands of steps: by default D is such that 99 % of it are reached at
``decide_by``; there what goes is fixed and held at zero, so that the cut changes no output. Tables are looked at no
more than 200 times in a training. Single values need dense gradients and an index, which the budget counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_int, check_range
from tamis.pruners.base import Step
from tamis.pruners.gates import Gate, gate_of
from tamis.pruners.tables import Table
from tamis.pruners.values import ValuePruner, largest_values

__all__ = ["DeepLight", "DeepLightConfig", "sparsity_at"]

LOOKS = 200  # how often in a training the tables are looked at, at most


@dataclass(frozen=True, kw_only=True)
class DeepLightConfig:
    """Settings of `DeepLight`.

    Attributes:
        warm_up: share of the training before anything is pruned, in [0, 1). Paper: 2 epochs.
        decide_by: share of the training after which what goes is fixed, in (warm_up, 1].
        every: steps between two prunings. Paper: 10.
        damping: D in (0, 1), for k in hundreds of steps; None: 99 % of the target at ``decide_by``. Paper: 0.99.
    """

    warm_up: float = 0.2
    decide_by: float = 0.7
    every: int = 10
    damping: float | None = None

    def __post_init__(self) -> None:
        check_range("warm_up", self.warm_up, low=0, high=1, open_high=True)
        check_range("decide_by", self.decide_by, low=self.warm_up, high=1, open_low=True)
        check_int("every", self.every, low=1)
        if self.damping is not None:
            check_range("damping", self.damping, low=0, high=1, open_low=True, open_high=True)


def sparsity_at(steps: int, target: float, span: float, damping: float | None) -> float:
    """Share of the values that are zero ``steps`` after the warm-up: target x (1 - D^(steps / 100)).

    Args:
        steps: >= 0.
        target: in [0, 1].
        span: steps from the end of the warm-up to the decision, > 0; used if ``damping`` is None.
        damping: D; None: D^(span / 100) = 0.01.
    """
    left = 0.01 ** (steps / span) if damping is None else damping ** (steps / 100)
    return float(target * (1 - left))


class HeldGate(Gate):
    """Rows as they are; once it is decided, times what remains.

    Attributes:
        kept: bool [n, d].
    """

    kept: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.holding = False
        self.register_buffer("kept", torch.ones(rows, width, dtype=torch.bool))

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        return rows * self.kept[ids] if self.holding else rows

    def fold(self, weight: Tensor) -> None:
        weight.mul_(self.kept)


class DeepLight(ValuePruner):
    """Prunes the smallest embedding values little by little while the model trains.

    A plain loop: ``pruner.step()`` after ``optimizer.step()``, ``plan = pruner.prune(optimizer)`` at the end.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; ``keep`` is a share of all values;
            without a budget size=0.2.
        config: the settings.

    Raises:
        ValueError: a table with sparse gradients, or a budget smaller than its index.
    """

    config_class = DeepLightConfig

    def prepare(self) -> None:
        self.refuse_sparse()

    def make_gate(self, table: Table) -> HeldGate:
        return HeldGate(table.rows, table.width)

    def wake(self) -> None:
        for table in self.tables:
            gate = gate_of(table)
            assert isinstance(gate, HeldGate)
            gate.holding = self._decided

    def learn(self, step: Step) -> None:
        """Prune, if it is time.

        Raises:
            ValueError: ``total_steps`` is not known.
        """
        c, total = self.config, step.steps_in_all
        steps = step.number - c.warm_up * total
        if steps < 0 or step.number % max(c.every, total // LOOKS) != 0:
            return
        values = sum(table.rows * table.width for table in self.tables)
        target = 1 - self.budget_total() / values
        sparsity = sparsity_at(int(steps), target, (c.decide_by - c.warm_up) * total, c.damping)
        self._moved += 1
        for table, mask in zip(
            self.tables, largest_values(self.sources(), round((1 - sparsity) * values)), strict=True
        ):
            table.weight.mul_(mask)

    def logs(self) -> dict[str, float]:
        zeros = sum(int((table.weight == 0).sum()) for table in self.tables)
        return {"tamis/zeros": zeros / sum(table.rows * table.width for table in self.tables)}
