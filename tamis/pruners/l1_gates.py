"""L1 gates: a factor per column under an L1 penalty, the largest are kept; the plain rival of every learned pruner.

Z. Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, moved from channels to
embedding columns: loss + lambda x sum of the gates, g = sigmoid(value) in (0, 1), Adam on ``value``.

Deviations: gates are sigmoids, so that |g| = g and no gate changes its sign (the paper: free factors and a
subgradient). The cut is decided at ``decide_by`` of the training and the rest of it adapts (the paper fine-tunes
afterwards, which is the same with another word). Unstated: which budget; here `best_columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_range
from tamis.pruners.base import Step
from tamis.pruners.budgeted import gate_gradients
from tamis.pruners.factors import FactorGate, FactorPruner, adam
from tamis.pruners.tables import Table

__all__ = ["L1Gates", "L1GatesConfig"]


@dataclass(frozen=True, kw_only=True)
class L1GatesConfig:
    """Settings of `L1Gates`.

    Attributes:
        strength: lambda > 0, of the sum of all gates.
        lr: of Adam on the gates.
        start: logit that the gates begin at; 2 is g = 0.88.
        decide_by: share of the training after which the cut is decided, in (0, 1]; 1: at the cut itself.
        power: rank by g x cost ** -power; 0 by g alone.
    """

    strength: float = 1e-5
    lr: float = 2e-2
    start: float = 2.0
    decide_by: float = 1 / 3
    power: float = 0.0

    def __post_init__(self) -> None:
        check_range("strength", self.strength, low=0, open_low=True)
        check_range("lr", self.lr, low=0, open_low=True)
        check_range("start", self.start)
        check_range("decide_by", self.decide_by, low=0, high=1, open_low=True)
        check_range("power", self.power, low=0)


class SigmoidGate(FactorGate):
    """factor = sigmoid(value), [d]."""

    def factor(self, value: Tensor) -> Tensor:
        return torch.sigmoid(value)


class L1Gates(FactorPruner):
    """Shrinks a gate per column by an L1 penalty and keeps the columns whose gates are largest.

    A plain loop: ``loss = criterion(model(x), y) + pruner.penalty()``, ``pruner.step()`` after ``optimizer.step()``,
    ``plan = pruner.prune(optimizer)`` at the end.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget size=0.2.
        config: the settings.
    """

    config_class = L1GatesConfig
    penalised = True

    def make_gate(self, table: Table) -> SigmoidGate:
        return SigmoidGate(table.width, torch.full((table.width,), self.config.start))

    def parameters(self) -> Sequence[Tensor]:
        """The gates' leaves until it is decided."""
        return [] if self._decided else [gate.value for gate in self.factor_gates()]

    def penalty(self) -> Tensor:
        """Lambda x sum of all gates."""
        self._watch.penalty(self.tables[0].weight)
        self._asked = True
        leaves = list(self.parameters())
        if not leaves:
            return torch.zeros(())
        sums = [torch.sigmoid(leaf).sum().to(leaves[0].device) for leaf in leaves]
        value: Tensor = self.config.strength * torch.stack(sums).sum()
        return value

    def learn(self, step: Step) -> None:
        """A step of Adam on task gradient + penalty."""
        grads = gate_gradients(self, step)
        self._moved += 1
        adam(self.factor_gates(), grads, self._moved, self.config.lr)

    def scores(self) -> list[Tensor]:
        return [torch.sigmoid(gate.value.detach()) for gate in self.factor_gates()]

    def logs(self) -> dict[str, float]:
        return {"tamis/gate": float(torch.cat(self.scores()).mean())}
