"""HAM: hard masks on the columns of every table, moved by the validation loss through a straight-through gradient.

T. Xiao, X. Xiao, M. Chen, Y. Cheng, "Field-wise Embedding Size Search via Structural Hard Auxiliary Mask Pruning for
Click-Through Rate Prediction", arXiv:2208.08004 (CEUR-WS 3317, paper 2). **A reconstruction**: only the abstract could
be read. It says: structural pruning of a super-net; the search stays in the discrete space and goes by gradients; an
orthogonality penalty decorrelates the columns of a table. Everything else is ours.

===================  =====================  ====================================================================
symbol               here                   what
===================  =====================  ====================================================================
mu                   ``HardGate.value``     [d] float32, starts at 1
m = 1[mu > tau]      ``HardGate.mask``      [d] in {0, 1}; tau is where the budget is met now
d L / d mu           `straight_through`     d L / d m where |mu - tau| <= 1, else 0
R(V)                 `column_overlap`       sum over pairs of columns of cos^2, divided by the number of pairs
===================  =====================  ====================================================================

Ours: tau follows a cubic schedule from everything to the budget between ``warm_up`` and ``decide_by``, in place of a
weight on the number of columns, so that the budget is met; mu descends the validation loss with a gradient divided by
its root mean square over all gates; the gradient of a closed column is taken with the row as it is in the table, so
that it can open again; R is the scale-free cosine form, over ``sample`` rows of a table drawn anew at each step, and
tables with fewer rows than columns are left out of it (their columns cannot be orthogonal). With ``decide_by=1`` a
model of these widths is trained anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tamis.core.checks import check_int, check_range
from tamis.core.rng import check_seed, torch_generator
from tamis.pruners.base import Loss, Step
from tamis.pruners.budget import Budget, budget_at
from tamis.pruners.budgeted import best_columns
from tamis.pruners.factors import FactorGate, FactorPruner
from tamis.pruners.tables import Table

__all__ = ["HAM", "HAMConfig", "column_overlap", "straight_through"]


@dataclass(frozen=True, kw_only=True)
class HAMConfig:
    """Settings of `HAM`; all of them are ours.

    Attributes:
        lr: how far mu moves in a step, in root mean squares of its gradient, > 0.
        orthogonal: weight of R, averaged over the tables, >= 0; 0 turns it off. Needs dense gradients.
        sample: rows of a table that R looks at in a step.
        warm_up: share of the training before anything is closed, in [0, 1).
        decide_by: share of the training after which the masks are fixed, in (warm_up, 1]; 1: at the cut.
        power: rank by mu x cost ** -power.
        seed: of the sampled rows.
    """

    lr: float = 0.01
    orthogonal: float = 1e-3
    sample: int = 4096
    warm_up: float = 0.2
    decide_by: float = 0.5
    power: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("lr", self.lr, low=0, open_low=True)
        check_range("orthogonal", self.orthogonal, low=0)
        check_int("sample", self.sample, low=2)
        check_range("warm_up", self.warm_up, low=0, high=1, open_high=True)
        check_range("decide_by", self.decide_by, low=self.warm_up, high=1, open_low=True)
        check_range("power", self.power, low=0)
        check_seed(self.seed)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mu: Tensor, mask: Tensor, tau: float) -> Tensor:
        ctx.save_for_backward(mu)
        ctx.tau = tau
        return mask.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mu,) = ctx.saved_tensors
        return grad * ((mu - ctx.tau).abs() <= 1), None, None


def straight_through(mu: Tensor, mask: Tensor, tau: float) -> Tensor:
    """``mask`` [d], with the gradient of the clipped identity: it reaches mu where |mu - tau| <= 1.

    Args:
        mu: [d].
        mask: [d] in {0, 1}.
        tau: the threshold.
    """
    return _Straight.apply(mu, mask, tau)  # type: ignore[no-any-return]


def column_overlap(rows: Tensor) -> Tensor:
    """Mean cos^2 over all pairs of columns of ``rows`` [n, d]: 0 if they are orthogonal, 1 if parallel; scale free."""
    unit = rows / torch.linalg.vector_norm(rows, dim=0).clamp(min=1e-12)
    cosines = unit.T @ unit
    d = rows.shape[1]
    overlap: Tensor = (cosines.square().sum() - cosines.diagonal().square().sum()) / (d * (d - 1))
    return overlap


class HardGate(FactorGate):
    """factor = a hard mask with a straight-through gradient.

    Attributes:
        mask: float32 [d] in {0, 1}: the columns that are open now.
        tau: the threshold on mu.
    """

    mask: Tensor
    tau: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, torch.ones(width))
        self.float32("mask", torch.ones(width))
        self.float32("tau", torch.zeros(()))

    def factor(self, value: Tensor) -> Tensor:
        return straight_through(value, self.mask, float(self.tau))


class HAM(FactorPruner):
    """Closes and opens whole columns by the sign of the validation loss' gradient, and keeps those open at the end.

    A plain loop: ``loss = criterion(model(x), y) + pruner.penalty()``, after ``optimizer.step()``
    ``pruner.step(validation_loss=lambda: criterion(model(x_val), y_val))``, ``plan = pruner.prune(optimizer)`` at the
    end.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget size=0.2.
        config: the settings.

    Raises:
        ValueError: a table with sparse gradients, while ``orthogonal`` is above 0.
    """

    config_class = HAMConfig
    validates = 1
    again = "fresh"

    def prepare(self) -> None:
        self.penalised = self.config.orthogonal > 0
        sparse = [table.field for table in self._penalised_tables() if table.modules[0].sparse]
        if sparse:
            raise ValueError(
                f"orthogonal={self.config.orthogonal:g}: the penalty has a dense gradient, and {sparse[0]!r} has "
                "sparse=True; HAMConfig(orthogonal=0.0), or build the table with sparse=False"
            )

    def make_gate(self, table: Table) -> HardGate:
        return HardGate(table.width)

    def hard_gates(self) -> list[HardGate]:
        """The gates, in the order of ``tables``."""
        return [gate for gate in self.factor_gates() if isinstance(gate, HardGate)]

    # ---- orthogonality

    def _penalised_tables(self) -> list[Table]:
        if not self.config.orthogonal or self._decided:
            return []
        return [table for table in self.tables if table.rows >= table.width and table.weight.requires_grad]

    def parameters(self) -> Sequence[Tensor]:
        """The tables' weights, until it is decided."""
        return [table.weight for table in self._penalised_tables()]

    def penalty(self) -> Tensor:
        """``orthogonal`` x mean over the tables of `column_overlap` of some rows, the same on every rank."""
        self._watch.penalty(self.tables[0].weight)
        self._asked = True
        parts = []
        for number, table in enumerate(self._penalised_tables()):
            weight, rows = table.weight, None
            if table.rows > self.config.sample:
                generator = torch_generator(self.config.seed, self.steps_taken, number)
                rows = torch.randint(table.rows, (self.config.sample,), generator=generator).to(weight.device)
            parts.append(
                column_overlap((weight if rows is None else weight[rows]).float()).to(self.tables[0].weight.device)
            )
        if not parts:
            return torch.zeros(())
        value: Tensor = self.config.orthogonal * torch.stack(parts).mean()
        return value

    # ---- masks

    def on_validation(self, loss: Loss, step: Step) -> None:
        """A step of mu, and the masks of the budget as it is now."""
        c = self.config
        if self._decided or step.number < c.warm_up * step.steps_in_all:
            return
        grads = self.validation_gradients(loss, step)
        size = torch.cat([grad.cpu() for grad in grads]).square().mean().sqrt().clamp(min=1e-30)
        with torch.no_grad():
            for gate, grad in zip(self.factor_gates(), grads, strict=True):
                gate.value.sub_(c.lr * grad / size.to(grad.device))
            self._moved += 1
            self._open(budget_at(step.number / step.steps_in_all, self._target(), c.warm_up, c.decide_by))

    def _target(self) -> float:
        """The budget as a share of everything."""
        assert self.budget is not None
        costs, total = self.budget.costs(self.tables)
        return min(1.0, total / sum(c * t.width for c, t in zip(costs, self.tables, strict=True)))

    def _open(self, share: float) -> None:
        """Set the masks to the best columns that ``share`` of everything holds."""
        assert self.budget is not None
        budget = Budget(keep=share) if self.budget.keep is not None else Budget(size=share)
        masks = best_columns(self.scores(), self.tables, budget, self.config.power)
        closed = [g.value.detach()[~m].cpu() for g, m in zip(self.factor_gates(), masks, strict=True)]
        least = min(float(gate.value.min()) for gate in self.factor_gates())
        tau = float(torch.cat(closed).max()) if any(len(part) for part in closed) else least
        for gate, mask in zip(self.hard_gates(), masks, strict=True):
            gate.mask.copy_(mask)
            gate.tau.fill_(tau)

    def scores(self) -> list[Tensor]:
        return [gate.value.detach() for gate in self.factor_gates()]

    def decide(self) -> None:
        super().decide()
        for gate in self.hard_gates():
            gate.mask.fill_(1.0)

    def logs(self) -> dict[str, float]:
        with torch.no_grad():
            tables = [table for table in self.tables if table.rows >= table.width]
            overlap = [float(column_overlap(table.weight[: self.config.sample].float())) for table in tables]
        opened = torch.cat([(gate.mask * gate.kept).cpu() for gate in self.hard_gates()])
        return {"tamis/open": float(opened.mean()), "tamis/overlap": sum(overlap) / max(1, len(overlap))}
