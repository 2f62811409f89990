"""Gates with one factor per column, the same for every row, and the pruner that keeps the best columns of them."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tamis.core.distributed import all_mean_
from tamis.core.errors import NoEffectWarning
from tamis.pruners.base import Loss, Step
from tamis.pruners.budget import Budget, check_budget
from tamis.pruners.budgeted import BudgetedPruner, best_columns, finite
from tamis.pruners.gates import Gate, gate_of
from tamis.pruners.selection import Selection

__all__ = ["FactorGate", "FactorPruner", "LearnedGate", "adam"]


class LearnedGate(Gate):
    """A gate with one leaf that Adam moves.

    Args:
        start: the leaf's start, of any shape.

    Attributes:
        value: what is learned, float32.
        first, second: Adam's running means of the gradient and its square.
        learning: whether a loss is differentiated by ``value``.
    """

    value: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.leaf("value", start)
        self.float32("first", torch.zeros_like(start))
        self.float32("second", torch.zeros_like(start))
        self.learning = True


class FactorGate(LearnedGate):
    """Multiplies rows by a factor per column and by what was decided.

    Args:
        width: d.
        start: as `LearnedGate`.

    Attributes:
        kept: bool [d].
        active: False: rows pass as they are.
    """

    per_row = False
    kept: Tensor

    def __init__(self, width: int, start: Tensor) -> None:
        super().__init__(start)
        self.register_buffer("kept", torch.ones(width, dtype=torch.bool))
        self.active = True

    @abstractmethod
    def factor(self, value: Tensor) -> Tensor:
        """[d] or [1], from ``value``."""

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        if not self.active:
            return rows
        factor = self.factor(self.value if self.learning else self.value.detach()) * self.kept
        return rows * factor.to(rows.dtype)

    def fold(self, weight: Tensor) -> None:
        weight.mul_((self.factor(self.value.detach()) * self.kept).to(weight))


class FactorPruner(BudgetedPruner):
    """Learns a number per column (or table) and keeps the best that the budget holds."""

    whole_tables: ClassVar[bool] = False  # what stays are tables, not columns

    def judge_budget(self, budget: Budget) -> None:
        """As `check_budget`, or, where tables stay or go, that the smallest of them fits.

        Raises:
            ValueError: the budget holds nothing.

        Warns:
            NoEffectWarning: it holds everything, or less than one of the tables.
        """
        costs, total = budget.costs(self.tables)
        if not self.whole_tables:
            check_budget(budget, self.tables, costs, total)
            return
        super().judge_budget(budget)
        least, field = min((cost * table.width, table.field) for cost, table in zip(costs, self.tables, strict=True))
        if total < least * (1 - 1e-9):
            raise ValueError(
                f"{budget}: holds less than the smallest table, {field!r}, so nothing would be left; give more, or "
                "take a pruner of columns"
            )
        wide = [t.field for c, t in zip(costs, self.tables, strict=True) if c * t.width > total * (1 + 1e-9)]
        if wide:
            words = f"{type(self).__name__}: {budget} holds less than the whole of {', '.join(wide)}, so that they go "
            cure = "whatever their gates learn; give more, or leave them out with tables="
            warnings.warn(words + cure, NoEffectWarning, stacklevel=4)

    def factor_gates(self) -> list[FactorGate]:
        """The gates, in the order of ``tables``."""
        return [gate for table in self.tables if isinstance(gate := gate_of(table), FactorGate)]

    def scores(self) -> list[Tensor]:
        """What each column is worth, per table [d]."""
        raise NotImplementedError

    def chosen(self) -> list[Tensor]:
        """What to keep, per table bool [d]; by default the `best_columns`."""
        assert self.budget is not None
        scores = self.scores()
        if len({float(s) for score in scores for s in (score.min(), score.max())}) == 1:
            words = f"{type(self).__name__}: every column has the same score, so the choice is by number only"
            warnings.warn(words, NoEffectWarning, stacklevel=5)
        return best_columns(scores, self.tables, self.budget, self.config.power)

    def decide(self) -> None:
        for gate, keep in zip(self.factor_gates(), self.chosen(), strict=True):
            gate.kept.copy_(keep)

    def undo(self) -> None:
        for gate in self.factor_gates():
            gate.kept.fill_(True)

    def spent(self) -> float:
        assert self.budget is not None
        costs = self.budget.costs(self.tables)[0]
        return sum(c * float(gate.kept.sum()) for c, gate in zip(costs, self.factor_gates(), strict=True))

    def wake(self) -> None:
        for gate in self.factor_gates():
            gate.learning = not self._decided and not self.validates

    def select(self) -> Mapping[str, Selection]:
        self.settle()
        gates = zip(self.tables, self.factor_gates(), strict=True)
        return {table.field: Selection.columns(gate.kept.nonzero()[:, 0]) for table, gate in gates}

    def validation_gradients(self, loss: Loss, step: Step) -> list[Tensor]:
        """D validation loss / d value of each gate, mean over ranks.

        Args:
            loss: as `on_validation` gets it.
            step: the step that was just taken.

        Raises:
            ValueError: it goes through no gate.
        """
        gates = self.factor_gates()
        for gate in gates:
            gate.learning = True
        try:
            found = torch.autograd.grad(loss(), [gate.value for gate in gates], allow_unused=True)
        finally:
            for gate in gates:
                gate.learning = False
        if all(grad is None for grad in found):
            raise ValueError(
                f"{type(self).__name__}.step(): the validation loss goes through no gate; it must be computed when it "
                "is called, by this model, not before: validation_loss=lambda: criterion(model(x_val), y_val)"
            )
        grads = [torch.zeros_like(g.value) if f is None else f for g, f in zip(gates, found, strict=True)]
        return finite(type(self).__name__, [all_mean_(grad.detach().float()) for grad in grads], step)


@torch.no_grad()
def adam(gates: Sequence[LearnedGate], grads: Sequence[Tensor], number: int, lr: float) -> None:
    """One step of Adam (betas 0.9 and 0.999, eps 1e-8) on each gate's ``value``; its means are saved with the model.

    Args:
        gates: changed in place.
        grads: of their values.
        number: of the step, >= 1.
        lr: > 0.
    """
    for gate, grad in zip(gates, grads, strict=True):
        gate.first.lerp_(grad, 0.1)
        gate.second.lerp_(grad.square(), 0.001)
        first, second = gate.first / (1 - 0.9**number), gate.second / (1 - 0.999**number)
        gate.value.sub_(lr * first / (second.sqrt() + 1e-8))
