"""SSEDS: one look at the gradient of a mask of ones says which columns matter; then training anew.

L. Qu, Y. Ye, N. Tang, L. Zhang, Y. Shi, H. Yin, "Single-shot Embedding Dimension Search in Recommender System",
SIGIR 2022, arXiv:2204.03281. A mask of ones stands on the columns of every table of a pretrained model; the saliency of
a column is |d loss / d mask| of a batch, divided by the sum over all columns; the largest that the budget holds are
kept, and a model of these widths is trained from new weights.

Deviations: ranked over all tables by saliency alone, as in the text (``power=0``); widths differ between tables, for
which the paper trains a transform per table: say ``prune(project=True)``, else zeros are put back. ``decide_by``
below 1 keeps the weights and trains on (ours).

Unstated: how large the batch is. ``batches`` of the training in a row count as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_int, check_range
from tamis.core.errors import NotPolarisedError
from tamis.pruners.base import Step
from tamis.pruners.budgeted import gate_gradients
from tamis.pruners.factors import FactorGate, FactorPruner
from tamis.pruners.tables import Table

__all__ = ["SSEDS", "SSEDSConfig"]


@dataclass(frozen=True, kw_only=True)
class SSEDSConfig:
    """Settings of `SSEDS`.

    Attributes:
        batches: how many optimizer steps the gradient is summed over, the last ones before the decision. Paper: 1.
        decide_by: share of the training after which it is decided, in (0, 1]. Paper: 1, and then training anew.
        power: rank by saliency x cost ** -power. Paper: 0.
    """

    batches: int = 1
    decide_by: float = 1.0
    power: float = 0.0

    def __post_init__(self) -> None:
        check_int("batches", self.batches, low=1)
        check_range("decide_by", self.decide_by, low=0, high=1, open_low=True)
        check_range("power", self.power, low=0)


class MaskGate(FactorGate):
    """factor = value, ones; ``first`` sums its gradient."""

    def factor(self, value: Tensor) -> Tensor:
        return value


class SSEDS(FactorPruner):
    """Keeps the columns whose removal would change the loss of one batch most, to first order.

    A plain loop: ``pruner.step()`` after ``optimizer.step()``; after the training ``pruner.prune()``, then
    ``small = pruner.restart(new_model)``, which is trained anew.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget size=0.2.
        config: the settings.
    """

    config_class = SSEDSConfig
    again = "fresh"

    def make_gate(self, table: Table) -> MaskGate:
        return MaskGate(table.width, torch.ones(table.width))

    def _looks_at(self, number: int) -> bool:
        """Whether step ``number`` is one of the ``batches`` before the decision."""
        if self._total_steps is None:
            return False
        last: int = math.ceil(self.config.decide_by * self._total_steps)
        batches: int = self.config.batches
        return last - batches < number <= last

    def wake(self) -> None:
        """The mask stands in the way of the rows only while it is looked at, and once it holds columns at zero."""
        for gate in self.factor_gates():
            gate.learning = not self._decided and self._looks_at(self.steps_taken + 1)
            gate.active = self._decided or gate.learning

    def learn(self, step: Step) -> None:
        """Sum the mask's gradient.

        Raises:
            ValueError: ``total_steps`` is not known.
        """
        if step.number > step.steps_in_all or not self._looks_at(step.number):
            return
        self._moved += 1
        for gate, grad in zip(self.factor_gates(), gate_gradients(self, step), strict=True):
            gate.first.add_(grad)

    def check_settled(self) -> None:
        if not self._moved and not self._decided:
            c, taken = self.config, self.steps_taken
            total = math.ceil((taken + c.batches) / c.decide_by)
            raise NotPolarisedError(
                f"SSEDS.prune(): it has learned nothing yet: it looks at the gradients of {c.batches} step(s) before "
                f"{c.decide_by:g} x total_steps={self._total_steps}, and step {taken} was the last, so nothing was "
                f"cut; call pruner.begin({total}) and go on with the loop for {c.batches} step(s) more"
            )

    def scores(self) -> list[Tensor]:
        sums = [gate.first.abs() for gate in self.factor_gates()]
        total = sum(float(part.sum()) for part in sums)
        return [part / max(total, 1e-30) for part in sums]
