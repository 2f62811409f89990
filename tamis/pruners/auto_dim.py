"""AutoDim: each table chooses one of a few widths; the choice is relaxed by Gumbel-softmax and learned on validation.

X. Zhao et al., "AutoDim: Field-aware Embedding Dimension Search in Recommender Systems", WWW 2021, arXiv:2006.14827.

=================  ==========================  ===============================================================
paper              here                        what
=================  ==========================  ===============================================================
alpha              ``PrefixGate.value``        [a] logits, one per candidate width; starts at 0
p, Eq. (9)         `gumbel_softmax`            softmax((log softmax(alpha) + G) / tau)
tau                `temperature`               max(0.01, 1 - 0.00005 t)
E^1 .. E^a         ``PrefixGate.prefixes``     [a, d]: candidate c is the first d_c columns of the one table
=================  ==========================  ===============================================================

Deviations: candidates share one table (its first d_c columns; the authors' "weight-sharing"), so that the sum over
candidates is a factor per column, and zeros take the place of the linear map and of the batch norm, which the paper
needs to align candidates that do not share weights; first order only (the paper says xi = 0 loses nothing); a budget
is ours: from the most likely widths, the step down that gives up the least log-likelihood per byte, until it is met.
Without a budget each table takes its most likely width, as in the paper. Then a model of these widths is trained anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_range
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import check_seed
from tamis.pruners.gumbel import GumbelGate, GumbelPruner
from tamis.pruners.tables import Table

__all__ = ["AutoDim", "AutoDimConfig", "fit_widths"]


@dataclass(frozen=True, kw_only=True)
class AutoDimConfig:
    """Settings of `AutoDim`.

    Attributes:
        candidates: widths as shares of the table's, rising, in (0, 1]; each table has those that differ.
        lr: of Adam on alpha. Paper: 0.001.
        cooling: what tau loses in a step. Paper: 5e-5.
        warm_up: share of the training before alpha moves, in [0, 1). Paper: 0.
        decide_by: share of the training after which it is decided, in (warm_up, 1]. Paper: 1, and then anew.
        seed: of the Gumbel noise.
    """

    candidates: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    lr: float = 1e-3
    cooling: float = 5e-5
    warm_up: float = 0.0
    decide_by: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        if len(self.candidates) < 2 or list(self.candidates) != sorted(set(self.candidates)):
            raise ValueError(f"candidates={self.candidates}: must be at least two shares, rising, without repeats")
        for share in self.candidates:
            check_range("candidates", share, low=0, high=1, open_low=True)
        check_range("lr", self.lr, low=0, open_low=True)
        check_range("cooling", self.cooling, low=0)
        check_range("warm_up", self.warm_up, low=0, high=1, open_high=True)
        check_range("decide_by", self.decide_by, low=self.warm_up, high=1, open_low=True)
        check_seed(self.seed)


class PrefixGate(GumbelGate):
    """factor of a column = probability of the candidates that have it."""

    prefixes: Tensor

    def __init__(self, width: int, widths: Sequence[int]) -> None:
        super().__init__(width, len(widths))
        self.widths = list(widths)
        self.float32("prefixes", (torch.arange(width)[None, :] < torch.tensor(self.widths)[:, None]).float())

    def factor(self, value: Tensor) -> Tensor:
        return self.probabilities(value) @ self.prefixes


def fit_widths(
    scores: Sequence[Sequence[float]], widths: Sequence[Sequence[int]], costs: Sequence[float], budget: float
) -> list[int]:
    """Which candidate each table takes: the best, then steps down that lose least score per cost until it fits.

    Args:
        scores: per table one per candidate, log-likelihoods.
        widths: per table of the candidates, rising.
        costs: of a dimension of each table.
        budget: at most this much is spent.

    Returns:
        per table a position among its candidates, or -1: no dimension at all.
    """
    at = [max(range(len(row)), key=lambda c, row=row: (row[c], -c)) for row in scores]  # type: ignore[misc]

    def width(table: int, candidate: int) -> int:
        return 0 if candidate < 0 else widths[table][candidate]

    def spent() -> float:
        return sum(cost * width(t, c) for t, (cost, c) in enumerate(zip(costs, at, strict=True)))

    def price(table: int, lower: int) -> float:
        """Log-likelihood given up per cost saved; no dimension at all is 10 below the least likely width."""
        row = scores[table]
        given_up = row[at[table]] - (row[lower] if lower >= 0 else min(row) - 10)
        return given_up / (costs[table] * (width(table, at[table]) - width(table, lower)))

    while spent() > budget * (1 + 1e-9):
        _, table, lower = min((price(t, c), t, c) for t in range(len(scores)) for c in range(-1, at[t]))
        at[table] = lower
    return at


class AutoDim(GumbelPruner):
    """Chooses a width for every table among a few, by a relaxed choice that descends the validation loss.

    A plain loop: ``pruner.step(validation_loss=lambda: criterion(model(x_val), y_val))`` after ``optimizer.step()``;
    after the training ``pruner.prune()``, then ``small = pruner.restart(new_model)``, which is trained anew.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget each table takes
            its most likely width.
        config: the settings.
    """

    config_class = AutoDimConfig
    default_size = None

    def make_gate(self, table: Table) -> PrefixGate:
        return PrefixGate(table.width, sorted({max(1, round(s * table.width)) for s in self.config.candidates}))

    def chosen(self) -> list[Tensor]:
        gates = [gate for gate in self.factor_gates() if isinstance(gate, PrefixGate)]
        scores = [torch.log_softmax(gate.value.detach().cpu(), 0).tolist() for gate in gates]
        costs = self.budget.costs(self.tables)[0] if self.budget else [1.0] * len(gates)
        at = fit_widths(scores, [gate.widths for gate in gates], costs, self.budget_total())
        if all(max(row) - min(row) < 1e-6 for row in scores):
            words = "AutoDim: alpha is where it began, so every width is as likely; give it more steps or a larger lr"
            warnings.warn(words, NoEffectWarning, stacklevel=6)
        widths = [gate.widths[c] if c >= 0 else 0 for gate, c in zip(gates, at, strict=True)]
        return [
            torch.arange(t.width, device=g.value.device) < w for t, g, w in zip(self.tables, gates, widths, strict=True)
        ]

    def logs(self) -> dict[str, float]:
        gates = [gate for gate in self.factor_gates() if isinstance(gate, PrefixGate)]
        means = [float(torch.softmax(g.value.detach().cpu(), 0) @ g.prefixes.cpu().sum(1)) for g in gates]
        return {"tamis/width": sum(means) / len(means)}
