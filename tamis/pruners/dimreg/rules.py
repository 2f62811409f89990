"""The two ways of splitting DimReg's gates: about a budget, or about their mean as the thesis has it.

A rule holds what its way needs as buffers, and says four things: the penalty, how the gates move, when it looks at
the tables, and what is spent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tamis.core.types import JsonState
from tamis.pruners.base import Step
from tamis.pruners.budget import budget_at, split_by_budget
from tamis.pruners.dimreg.config import CLOSED, OPEN, DimRegConfig, ThesisConfig
from tamis.pruners.dimreg.polarisation import (
    mirror_step,
    pair_polarisation_with_grad,
    polarisation,
    polarisation_grad,
    redundancy_discount,
    spectral_score,
    split_polarisation,
    split_polarisation_grad,
)
from tamis.pruners.lookups import draw_rows
from tamis.pruners.stats import correlation, spectrum, top_pairs, weighted_moments
from tamis.pruners.stored_budget import split_by_prices
from tamis.pruners.tables import Table

__all__ = ["BudgetRule", "Gradients", "MeanRule", "Rule"]

LOOK_ROWS = 2**16  # at most so many rows of a table are looked at: a variance is then off by about 0.6 %
DEFAULT_REFRESH = 1000  # steps, about the mean; Alg. 5 says 5 epochs


class Gradients(NamedTuple):
    """What one step says of the gates: d task loss / d alpha and d penalty / d phi, [n] each, unscaled."""

    task: Tensor
    penalty: Tensor


class Rule(nn.Module, ABC):
    """Decides which gates are to close. Its buffers are its state.

    Args:
        widths: of the tables.
        config: the settings.
    """

    pairs: Tensor  # [2, p] int64: redundant pairs
    overlap: Tensor  # [p]: their |Pearson|

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)
        self.looked: int | None = None
        self.register_buffer("pairs", torch.zeros(2, 0, dtype=torch.int64))
        self.register_buffer("overlap", torch.zeros(0))

    @abstractmethod
    def penalty(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Lambda (R_imp + R_red), line 10 of Alg. 5, and its gradient with respect to phi, [n]."""

    @abstractmethod
    def move(self, logits: Tensor, gradients: Gradients, step: Step) -> Tensor:
        """The gates' logits [n] after ``step``.

        Args:
            logits: [n] before it.
            gradients: of the step.
            step: which one.
        """

    @abstractmethod
    def decide(self, phi: Tensor, tables: Sequence[Table], step: Step) -> None:
        """Look at the tables and move the split, where it is time to.

        Args:
            phi: [n], the gates after the step.
            tables: in the gates' order.
            step: which one.
        """

    def is_over(self, step: Step) -> bool:
        """Whether the split was fixed for good before ``step``: nobody needs lookups or importance any more."""
        return False

    def arrived(self, logits: Tensor) -> bool:
        """Whether every gate [n] is where the split wants it."""
        return False

    def per_table(self, flat: Tensor) -> list[Tensor]:
        """Parts [d] of ``flat`` [n], one per table."""
        return list(torch.split(flat, self.widths))

    def state(self) -> JsonState:
        """The buffers by name, and when the tables were looked at."""
        buffers = {name: tensor.clone() for name, tensor in self.named_buffers()}
        return {**buffers, "pairs": self.pairs.to(torch.int32), "looked": self.looked}

    def restore(self, state: JsonState) -> None:
        """Take back `state`; what an earlier release wrote besides is left aside."""
        for name, tensor in self.named_buffers():
            self.register_buffer(name, state[name].to(tensor.device, tensor.dtype, copy=True))
        self.looked = state["looked"]

    def look(self, phi: Tensor, tables: Sequence[Table], step: Step) -> list[Tensor]:
        """The top beta of all pairs of open dimensions by |Pearson| (lines 2 and 3 of Alg. 5).

        Args:
            phi: [n].
            tables: in the gates' order.
            step: which one.

        Returns:
            Per table the share of variance along each principal axis of the open dimensions, [d].
        """
        self.looked = step.number
        live, overlaps, spectra = self.per_table(phi >= 0.5), [], []
        for table, alive in zip(tables, live, strict=True):
            covariance = _covariance(table).to(phi.device)
            spectra.append(spectrum(covariance, alive).float())
            overlaps.append(correlation(covariance) if table.rows >= self.min_rows else None)
        self.pairs, self.overlap = top_pairs(overlaps, live, self.pair_share)
        return spectra

    @property
    @abstractmethod
    def min_rows(self) -> int:
        """Tables with fewer rows are not searched for pairs."""

    @property
    @abstractmethod
    def pair_share(self) -> float:
        """beta, in [0, 1]."""


def _covariance(table: Table) -> Tensor:
    """Of the table's columns over its rows, weighted by lookups, [d, d]; of `LOOK_ROWS` drawn rows if it has more."""
    weight, lookups = table.weight.detach(), table.lookups()
    if table.rows <= LOOK_ROWS:
        return weighted_moments(weight, lookups)[1]
    return weighted_moments(weight[draw_rows(lookups, table.rows, LOOK_ROWS).to(weight.device)])[1]


class BudgetRule(Rule):
    """The split lies where the budget is met: all open at first, a cubic schedule down to the target, then fixed.

    What is ranked is a running mean of (dL/dphi x phi)^2, dealt out by each table's spectrum.

    Args:
        widths: of the tables.
        config: the settings.
        costs: [n] float64, what each open gate costs.
        budget: in the same unit.
        caps: per table how many dimensions it may keep at most: its rank is no larger than its rows; None: all.
        prices: per table what 0, 1, ... dimensions take when they are quantised, [d + 1]; ``costs`` is then not used.
    """

    importance: Tensor  # [n]
    kept: Tensor  # [n] bool
    spectra: Tensor  # [n]

    def __init__(
        self,
        widths: Sequence[int],
        config: DimRegConfig,
        costs: Tensor,
        budget: float,
        caps: Sequence[int] | None = None,
        prices: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__(widths)
        self.config, self.costs, self.budget, self.prices = config, costs, budget, prices
        self.whole = float(costs.sum()) if prices is None else sum(float(price[-1]) for price in prices)
        self.target = min(1.0, budget / self.whole)
        self.caps = list(widths if caps is None or self.target == 1.0 else caps)
        self.register_buffer("importance", torch.zeros(sum(widths)))
        self.register_buffer("kept", torch.ones(sum(widths), dtype=torch.bool))
        self.register_buffer("spectra", torch.cat([torch.full((width,), 1 / width) for width in widths]))

    @property
    def min_rows(self) -> int:
        return self.config.min_rows

    @property
    def pair_share(self) -> float:
        return self.config.pair_share

    def penalty(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        value = split_polarisation(phi, self.kept, c.temperature)
        return c.strength * value, c.strength * split_polarisation_grad(self.kept, c.temperature)

    def move(self, logits: Tensor, gradients: Gradients, step: Step) -> Tensor:
        c, (task, penalty) = self.config, gradients
        phi, rest = torch.sigmoid(logits), torch.sigmoid(-logits)
        self.importance.lerp_((task / rest).square(), 1 - c.memory)  # dL/dalpha / (1 - phi) = dL/dphi x phi
        rate = (OPEN - CLOSED) / max(1.0, c.closing * step.steps_in_all)
        return mirror_step(logits, (task / (phi * rest) + penalty) / c.strength, rate, CLOSED, OPEN)

    def decide(self, phi: Tensor, tables: Sequence[Table], step: Step) -> None:
        c, total = self.config, step.steps_in_all
        if not c.warm_up * total < step.number <= c.decide_by * total + 1:
            return
        if self.looked is None or step.number - self.looked >= (c.refresh_every or max(1, total // 50)):
            self.spectra = torch.cat(self.look(phi, tables, step))
        share = budget_at(step.number / total, self.target, c.warm_up, c.decide_by)
        order = redundancy_discount(self.importance, self.pairs, self.overlap)
        score = spectral_score(*(self.per_table(flat) for flat in (self.importance, order, self.spectra)))
        beyond = self._beyond_caps(order)
        if self.prices is None:
            costs = self.costs.masked_fill(beyond.cpu(), float("inf"))
            self.kept = split_by_budget(score.cpu(), costs, share * self.whole).to(score.device)
        else:
            scores = self.per_table(score.masked_fill(beyond, -float("inf")))
            self.kept = torch.cat(split_by_prices(scores, self.prices, share * self.whole)).to(score.device)

    def _beyond_caps(self, order: Tensor) -> Tensor:
        """The dimensions that stand last in ``order`` in a table that may not keep them, [n] bool."""
        beyond = torch.zeros_like(self.kept)
        for part, places, cap in zip(self.per_table(beyond), self.per_table(order), self.caps, strict=True):
            part[torch.argsort(places, descending=True, stable=True)[cap:]] = True
        return beyond

    def is_over(self, step: Step) -> bool:
        return step.total is not None and step.number > self.config.decide_by * step.total + 1

    def arrived(self, logits: Tensor) -> bool:
        ends = torch.where(self.kept, OPEN, CLOSED).to(logits)
        return bool((logits == ends).all())

    def spent(self, phi: Tensor) -> float:
        """What the open gates cost, in budgets."""
        kept = phi >= 0.5
        if self.prices is None:
            return float(self.costs[kept.cpu()].sum()) / self.budget
        counts = [int(part.sum()) for part in self.per_table(kept)]
        return sum(float(price[count]) for price, count in zip(self.prices, counts, strict=True)) / self.budget


class MeanRule(Rule):
    """The thesis: gates are pushed apart about their mean, and once more within redundant pairs, by Adam.

    Args:
        widths: of the tables.
        config: the settings.
    """

    moments: Tensor  # [2, n]: Adam's running means

    def __init__(self, widths: Sequence[int], config: ThesisConfig) -> None:
        super().__init__(widths)
        self.config = config
        self.register_buffer("moments", torch.zeros(2, sum(widths)))

    @property
    def min_rows(self) -> int:
        return self.config.min_rows

    @property
    def pair_share(self) -> float:
        return self.config.pair_share

    def penalty(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        value, slope = pair_polarisation_with_grad(phi, self.pairs, c.pair_temperature)
        value, slope = value + polarisation(phi, c.temperature), slope + polarisation_grad(phi, c.temperature)
        return c.strength * value, c.strength * slope

    def move(self, logits: Tensor, gradients: Gradients, step: Step) -> Tensor:
        phi, rest = torch.sigmoid(logits), torch.sigmoid(-logits)
        moved = nn.Parameter(logits.clone())
        moved.grad = gradients.task + gradients.penalty * phi * rest
        adam = torch.optim.Adam([moved], lr=self.config.gate_lr)
        adam.state[moved] = {
            "step": torch.tensor(float(step.number - 1)),
            "exp_avg": self.moments[0],
            "exp_avg_sq": self.moments[1],
        }
        adam.step()
        return moved.detach()

    def decide(self, phi: Tensor, tables: Sequence[Table], step: Step) -> None:
        c = self.config
        if c.pair_share and step.number % (c.refresh_every or DEFAULT_REFRESH) == 0:
            self.look(phi, tables, step)
