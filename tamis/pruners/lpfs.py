"""LPFS: a smooth-L0 gate per table that reaches exactly zero; tables whose gate is not zero stay.

Y. Guo et al., "LPFS: Learnable Polarizing Feature Selection for Click-Through Rate Prediction", arXiv:2206.00267.

g(x) = x^2 / (x^2 + eps); LPFS++: sign(x) x^2 / (x^2 + eps) + alpha eps^(1/tau) arctan(x), whose slope at 0 is not 0, so
that a table can come back. eps falls as the training goes on; x moves by SGD with the proximal step of an L1 penalty,
x <- sign(x) max(|x| - lr lambda, 0), which makes exact zeros.

Slips kept out: the slides print eps^2 in the upper branch of LPFS++; the derivative beside it, and the public
reimplementation, have eps in both. Deviations: g is divided by g(1) at the start, so that the model begins as it is
(as the reimplementation may); a budget, if there is one, keeps the largest |x|; without one, what is not zero, as in
the paper. The decision falls at ``decide_by`` and the training goes on: nothing is trained anew.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_range
from tamis.core.errors import NoEffectWarning
from tamis.pruners.base import Step
from tamis.pruners.budgeted import best_tables, gate_gradients
from tamis.pruners.factors import FactorGate, FactorPruner
from tamis.pruners.tables import Table

__all__ = ["LPFS", "LPFSConfig", "epsilon_at", "proximal", "smooth_l0"]


@dataclass(frozen=True, kw_only=True)
class LPFSConfig:
    """Settings of `LPFS`.

    Attributes:
        epsilon, final_epsilon: eps at the start and at ``decide_by``; geometric. Paper: 0.1, to about 1e-5.
        strength: lambda >= 0.
        lr: of SGD on x, > 0.
        plus: LPFS++.
        alpha, tau: of LPFS++, > 0. Reimplementation: 100, 2; here alpha = 10, with which g(1) at the start is near 4.
        decide_by: share of the training after which it is decided, in (0, 1]; 1: at the cut.
        power: rank by |x| x cost ** -power.
    """

    epsilon: float = 0.1
    final_epsilon: float = 1e-5
    strength: float = 0.02
    lr: float = 0.05
    plus: bool = False
    alpha: float = 10.0
    tau: float = 2.0
    decide_by: float = 0.5
    power: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epsilon", "final_epsilon", "lr", "alpha", "tau"):
            check_range(name, getattr(self, name), low=0, open_low=True)
        check_range("final_epsilon", self.final_epsilon, low=0, high=self.epsilon, open_low=True)
        check_range("strength", self.strength, low=0)
        check_range("decide_by", self.decide_by, low=0, high=1, open_low=True)
        check_range("power", self.power, low=0)


def smooth_l0(x: Tensor, epsilon: float, plus: bool = False, alpha: float = 10.0, tau: float = 2.0) -> Tensor:
    """The gate g(x): exactly 0 at 0, near 1 (LPFS) for |x| well above sqrt(epsilon).

    Args:
        x: any shape.
        epsilon: > 0.
        plus: LPFS++, which is odd in x.
        alpha: of LPFS++: size of the arctangent.
        tau: of LPFS++: it fades as epsilon^(1 / tau).
    """
    gate: Tensor = x.square() / (x.square() + epsilon)
    if not plus:
        return gate
    slope: float = alpha * epsilon ** (1 / tau)
    return torch.where(x >= 0, gate, -gate) + slope * torch.arctan(x)


def proximal(x: Tensor, threshold: float) -> Tensor:
    """sign(x) max(|x| - threshold, 0)."""
    return torch.sign(x) * (x.abs() - threshold).clamp(min=0)


def epsilon_at(progress: float, config: LPFSConfig) -> float:
    """Eps at ``progress`` in [0, 1] of the way to the decision."""
    share = min(max(progress / config.decide_by, 0.0), 1.0)
    return float(config.epsilon ** (1 - share) * config.final_epsilon**share)


class PolarGate(FactorGate):
    """factor = g(x), the same for every column, over its value at the start.

    Attributes:
        epsilon: eps of this step.
    """

    per_row = True  # LPFS++ may be negative, and a bag that takes the maximum must see that before it pools
    epsilon: Tensor

    def __init__(self, width: int, config: LPFSConfig) -> None:
        super().__init__(width, torch.ones(1))
        self.config = config
        self.float32("epsilon", torch.tensor(config.epsilon))

    def factor(self, value: Tensor) -> Tensor:
        c, one = self.config, torch.ones_like(value)
        g = [smooth_l0(x, e, c.plus, c.alpha, c.tau) for x, e in ((value, float(self.epsilon)), (one, c.epsilon))]
        return g[0] / g[1]


class LPFS(FactorPruner):
    """Keeps the tables whose smooth-L0 gate does not fall to zero.

    A plain loop: ``pruner.step()`` after ``optimizer.step()``, ``plan = pruner.prune(optimizer)`` at the end.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget what is not zero.
        config: the settings.

    Warns:
        NoEffectWarning: no gate is zero at the decision and there is no budget.
    """

    config_class = LPFSConfig
    whole_tables = True
    default_size = None

    def make_gate(self, table: Table) -> PolarGate:
        return PolarGate(table.width, self.config)

    def learn(self, step: Step) -> None:
        """SGD and the proximal step on x, then the next eps.

        Raises:
            ValueError: ``total_steps`` is not known.
        """
        c, grads = self.config, gate_gradients(self, step)
        epsilon = epsilon_at(step.number / step.steps_in_all, c)
        self._moved += 1
        for gate, grad in zip(self.factor_gates(), grads, strict=True):
            gate.value.copy_(proximal(gate.value - c.lr * grad, c.lr * c.strength))
            assert isinstance(gate, PolarGate)
            gate.epsilon.fill_(epsilon)

    def field_scores(self) -> list[float]:
        """|x| of each table."""
        return [float(gate.value.detach().abs()) for gate in self.factor_gates()]

    def chosen(self) -> list[Tensor]:
        scores = self.field_scores()
        if self.budget is None:
            stays = [score > 0 for score in scores]
            if all(stays):
                words = "LPFS: no gate has fallen to zero; raise strength or lr, or give a budget"
                warnings.warn(words, NoEffectWarning, stacklevel=6)
        else:
            stays = best_tables(scores, self.tables, self.budget, self.config.power)
            stays = [stay and score > 0 for stay, score in zip(stays, scores, strict=True)]
        return [torch.full_like(gate.kept, stay) for gate, stay in zip(self.factor_gates(), stays, strict=True)]

    def notes(self) -> tuple[str, ...]:
        pairs = zip(self.tables, self.field_scores(), strict=True)
        return ("x of each table:", *(f"  {table.field}: {score:.3f}" for table, score in pairs), *super().notes())
