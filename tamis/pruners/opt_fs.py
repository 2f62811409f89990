"""OptFS: a gate per feature value (row), driven to zero or one by a rising temperature; rows that are open stay.

F. Lyu, X. Tang, D. Liu, L. Chen, X. He, X. Liu, "Optimizing Feature Set for Click-Through Rate Prediction", WWW 2023,
arXiv:2301.10909. g = sigmoid(g_c tau) / sigmoid(g_c^(0)), tau = gamma^(t / T), loss + lambda x sum of sigmoid(g_c tau)
over all values; after the search g = 1 where g_c > 0 and 0 elsewhere, and the model is trained again from the weights
of an early epoch.

Slips kept out: the slides print tau = gamma^t / T. "Approximately zero" gates need the hard step and the training that
follows, which is why ``retrain`` says rewind.

Deviations: until a model is trained again, an open row keeps the 1 / sigmoid(g_c^(0)) that its gate has grown to (the
hard gate of the paper is 1, with which outputs jump); rewinds to the first weights, not those of epoch 1; a budget, if
there is one, takes the rows with the largest g_c per byte; ``decide_by`` below 1 holds closed rows at zero and goes on
(ours).

Unstated: the penalty's lambda is 1e-9 to 1e-8 in the authors' scripts for millions of values; here it is divided by
nothing either, so it must grow if there are fewer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_range
from tamis.core.errors import NoEffectWarning
from tamis.pruners.base import Step
from tamis.pruners.budget import split_by_budget
from tamis.pruners.budgeted import BudgetedPruner, gate_gradients
from tamis.pruners.factors import LearnedGate, adam
from tamis.pruners.gates import gate_of
from tamis.pruners.row_budget import index_cost, row_costs
from tamis.pruners.selection import Selection
from tamis.pruners.tables import Table

__all__ = ["OptFS", "OptFSConfig", "row_gate", "tau_at"]


@dataclass(frozen=True, kw_only=True)
class OptFSConfig:
    """Settings of `OptFS`.

    Attributes:
        strength: lambda >= 0, of the sum over all rows.
        final_tau: gamma > 1, the temperature at the decision. Authors' code: 200.
        start: g_c^(0) > 0. Authors' code: 0.5.
        lr: of Adam on g_c. Paper: that of the weights.
        decide_by: share of the training after which it is decided, in (0, 1]. Paper: 1, and then again.
        power: rank by g_c x cost ** -power.
    """

    strength: float = 1e-6
    final_tau: float = 200.0
    start: float = 0.5
    lr: float = 1e-2
    decide_by: float = 1.0
    power: float = 0.0

    def __post_init__(self) -> None:
        check_range("strength", self.strength, low=0)
        check_range("final_tau", self.final_tau, low=1, open_low=True)
        check_range("start", self.start, low=0, open_low=True)
        check_range("lr", self.lr, low=0, open_low=True)
        check_range("decide_by", self.decide_by, low=0, high=1, open_low=True)
        check_range("power", self.power, low=0)


def tau_at(progress: float, gamma: float) -> float:
    """Gamma ** progress.

    Args:
        progress: t / T, in [0, 1].
        gamma: > 1.
    """
    return float(gamma ** min(max(progress, 0.0), 1.0))


def row_gate(gate: Tensor, start: float, tau: float) -> Tensor:
    """sigmoid(g_c tau) / sigmoid(g_c^(0)).

    Args:
        gate: g_c, any shape.
        start: g_c^(0).
        tau: >= 1.
    """
    return torch.sigmoid(gate * tau) / torch.sigmoid(torch.tensor(start))


class RowGate(LearnedGate):
    """Each row times its gate, and times what was decided.

    Attributes:
        kept: bool [n].
        tau: the temperature.
    """

    per_row = True
    kept: Tensor
    tau: Tensor

    def __init__(self, rows: int, start: float) -> None:
        super().__init__(torch.full((rows,), start))
        self.start = start
        self.float32("tau", torch.ones(()))
        self.register_buffer("kept", torch.ones(rows, dtype=torch.bool))
        self.hard = False

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        if self.hard:
            return rows * (self.kept[ids] * self.opened()).unsqueeze(-1).to(rows.dtype)
        value = self.value if self.learning else self.value.detach()
        return rows * row_gate(value[ids], self.start, float(self.tau)).unsqueeze(-1).to(rows.dtype)

    def opened(self) -> float:
        """What an open gate has grown to, 1 / sigmoid(g_c^(0)): the weights have adapted to it."""
        return 1 + math.exp(-self.start)

    def fold(self, weight: Tensor) -> None:
        weight.mul_((self.kept[:, None] * self.opened()).to(weight))


class OptFS(BudgetedPruner):
    """Keeps the rows of the tables whose gates stay open.

    A plain loop: ``start = copy.deepcopy(model)`` first; ``loss = criterion(model(x), y) + pruner.penalty()``,
    ``pruner.step()`` after ``optimizer.step()``; after the training ``pruner.prune()``, then
    ``small = pruner.restart(start)``, which is trained again.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget every row with
            g_c > 0.
        config: the settings.

    Warns:
        NoEffectWarning: no gate is closed at the decision, and there is no budget.
    """

    config_class = OptFSConfig
    default_size = None
    again = "rewind"
    penalised = True

    def prepare(self) -> None:
        self.refuse_tied_heads()
        if self.budget is not None:
            index_cost(self.budget, self.tables)

    def make_gate(self, table: Table) -> RowGate:
        return RowGate(table.rows, self.config.start)

    def row_gates(self) -> list[RowGate]:
        """The gates, in the order of ``tables``."""
        return [gate for table in self.tables if isinstance(gate := gate_of(table), RowGate)]

    def wake(self) -> None:
        for gate in self.row_gates():
            gate.hard, gate.learning = self._decided, not self._decided

    def parameters(self) -> Sequence[Tensor]:
        """The gates' leaves until it is decided."""
        return [] if self._decided else [gate.value for gate in self.row_gates()]

    def penalty(self) -> Tensor:
        """Lambda x sum of sigmoid(g_c tau) over all rows."""
        self._watch.penalty(self.tables[0].weight)
        self._asked = True
        if self._decided:
            return torch.zeros(())
        device = self.row_gates()[0].value.device
        sums = [torch.sigmoid(gate.value * float(gate.tau)).sum().to(device) for gate in self.row_gates()]
        value: Tensor = self.config.strength * torch.stack(sums).sum()
        return value

    def learn(self, step: Step) -> None:
        """A step of Adam on g_c, then the next temperature.

        Raises:
            ValueError: ``total_steps`` is not known.
        """
        c, grads = self.config, gate_gradients(self, step)
        tau = tau_at(step.number / (c.decide_by * step.steps_in_all), c.final_tau)
        self._moved += 1
        adam(self.row_gates(), grads, self._moved, c.lr)
        for gate in self.row_gates():
            gate.tau.fill_(tau)

    def decide(self) -> None:
        values = [gate.value.detach().cpu() for gate in self.row_gates()]
        keep = [value > 0 for value in values]
        if self.budget is None:
            if all(bool(part.all()) for part in keep):
                words = "OptFS: no gate is closed; raise strength or lr, or give a budget"
                warnings.warn(words, NoEffectWarning, stacklevel=6)
        else:
            costs = [c * t.width for c, t in zip(row_costs(self.budget, self.tables), self.tables, strict=True)]
            price = torch.cat([torch.full(v.shape, c, dtype=torch.float64) for v, c in zip(values, costs, strict=True)])
            flat = torch.cat(values).double()
            worth = torch.sigmoid(flat) * price ** (1 - self.config.power)
            total = self.budget_total() - index_cost(self.budget, self.tables)
            keep = list(torch.split(split_by_budget(worth, price, total), [len(value) for value in values]))
        for gate, part in zip(self.row_gates(), keep, strict=True):
            gate.kept.copy_(part)

    def undo(self) -> None:
        for gate in self.row_gates():
            gate.kept.fill_(True)

    def spent(self) -> float:
        assert self.budget is not None
        costs = zip(row_costs(self.budget, self.tables), self.tables, self.row_gates(), strict=True)
        return sum(c * t.width * int(g.kept.sum()) for c, t, g in costs) + index_cost(self.budget, self.tables)

    def select(self) -> Mapping[str, Selection]:
        self.settle()
        return {
            table.field: Selection.blocks(gate.kept.long(), torch.tensor([[False], [True]]).expand(2, table.width))
            for table, gate in zip(self.tables, self.row_gates(), strict=True)
        }

    def logs(self) -> dict[str, float]:
        flat = torch.cat([(gate.value.detach() > 0).float().cpu() for gate in self.row_gates()])
        return {"tamis/open_rows": float(flat.mean())}
