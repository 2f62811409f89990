"""OptEmbed: rows below a learned norm go; evolution over a super-net of prefixes finds each table's width.

F. Lyu, X. Tang, H. Zhu, H. Guo, Y. Zhang, R. Tang, X. Liu, "OptEmbed: Learning Optimal Embedding Table for
Click-through Rate Prediction", CIKM 2022, arXiv:2208.04482. Three stages: (1) the super-net is trained: a row is
there if |e|_1 > t of its table, with a surrogate gradient for the step, loss + alpha x sum of exp(-t); for every
sample each field keeps a random prefix of its columns; (2) evolution over the widths on validation data; (3) the
model of these rows and widths is trained again from the first weights.

Facts of the authors' code: Adam on t with lr and alpha of 3e-4; t starts at 0; the step's surrogate slope is
2 - 4|x| for |x| < 0.4, 0.4 up to 1, then 0 (`long_tailed`); populations of 10 mutations and 10 crossovers,
mutation 0.1.

Deviations: evolution runs on validation batches of the last ``search`` of the same training, one generation a step,
each candidate scored on the same batch (the paper scores on the whole validation set, once the super-net has stood
still); parents are the best half of a generation and are copied before they are changed (in the code mutation changes
them in place); a budget, if there is one, bounds every candidate: too wide ones lose a dimension of a random table at a
time. Without a budget the best candidate counts, as in the paper. In an `nn.EmbeddingBag` all samples of a batch that
hold an id share one random prefix for it, since each distinct id is looked up once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tamis.core.checks import check_int, check_range
from tamis.core.distributed import all_mean_, rank
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import check_seed, numpy_generator, torch_generator
from tamis.core.types import JsonState
from tamis.pruners.base import Loss, Step
from tamis.pruners.budgeted import BudgetedPruner, gate_gradients
from tamis.pruners.factors import LearnedGate, adam
from tamis.pruners.gates import gate_of
from tamis.pruners.row_budget import index_cost, row_costs
from tamis.pruners.selection import Selection
from tamis.pruners.tables import Table

__all__ = ["OptEmbed", "OptEmbedConfig", "long_tailed", "next_generation"]


@dataclass(frozen=True, kw_only=True)
class OptEmbedConfig:
    """Settings of `OptEmbed`.

    Attributes:
        strength: alpha >= 0, of the sum of exp(-t).
        lr: of Adam on t.
        search: share of the training, at its end, in which evolution runs, in (0, 1].
        population: candidates of a generation, even, >= 4. Each costs a forward per step of the search.
        mutation: chance of a table's width to be drawn anew, in (0, 1].
        decide_by: 1: decided at the cut (the paper); it cannot be earlier, the search comes last.
        seed: of the prefixes and of the evolution.
    """

    strength: float = 3e-4
    lr: float = 3e-4
    search: float = 0.1
    population: int = 20
    mutation: float = 0.1
    decide_by: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("strength", self.strength, low=0)
        check_range("lr", self.lr, low=0, open_low=True)
        check_range("search", self.search, low=0, high=1, open_low=True)
        if check_int("population", self.population, low=4) % 2:
            raise ValueError(f"population={self.population}: must be even; half of a generation are mutations")
        check_range("mutation", self.mutation, low=0, high=1, open_low=True)
        check_range("decide_by", self.decide_by, low=1, high=1)
        check_seed(self.seed)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        size = ctx.saved_tensors[0].abs()
        return grad * torch.where(size < 0.4, 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0))


def long_tailed(x: Tensor) -> Tensor:
    """1 where x > 0, else 0; slope 2 - 4|x| below 0.4, 0.4 up to 1, then 0."""
    return _Step.apply(x)  # type: ignore[no-any-return]


class SuperGate(LearnedGate):
    """Rows below the threshold are zero; in training every row keeps a random prefix, else ``width`` columns.

    Attributes:
        kept: bool [n], once decided.
        width: [] int32, the prefix outside of training.
    """

    per_row = True
    kept: Tensor
    width: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(torch.zeros(1))
        self.register_buffer("kept", torch.ones(rows, dtype=torch.bool))
        self.register_buffer("width", torch.tensor(width, dtype=torch.int32))
        self.hard = False
        self.key: tuple[int, ...] = ()  # of the step's random prefixes
        self.calls = 0

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        columns = torch.arange(rows.shape[-1], device=rows.device)
        if self.hard:
            return rows * self.kept[ids].unsqueeze(-1) * (columns < self.width)
        value = self.value if self.learning else self.value.detach()
        there = long_tailed(rows.float().abs().sum(-1, keepdim=True) - value).to(rows.dtype)
        if not self.training:
            return rows * there * (columns < self.width)
        generator = torch_generator(*self.key, self.calls)
        self.calls += 1
        prefix = torch.randint(rows.shape[-1], (*ids.shape, 1), generator=generator).to(rows.device)
        return rows * there * (columns <= prefix)

    def alive(self, weight: Tensor) -> Tensor:
        """Which rows of ``weight`` [n, d] are above the threshold, bool [n]."""
        return weight.detach().float().abs().sum(1) > self.value.detach()

    def fold(self, weight: Tensor) -> None:
        weight.mul_(self.kept[:, None] * (torch.arange(weight.shape[1], device=weight.device) < self.width))


def next_generation(
    parents: np.ndarray, widths: Sequence[int], population: int, mutation: float, generator: np.random.Generator
) -> np.ndarray:
    """Half mutations of the parents, half crossovers at one point, [population, m].

    Args:
        parents: [p, m] widths, best first, p >= 2.
        widths: the tables'.
        population: even.
        mutation: chance of a width to be drawn anew from 1 to the table's.
        generator: of all that is random.
    """
    half, fields = population // 2, len(widths)
    mutants = parents[np.arange(half) % len(parents)].copy()
    drawn = generator.integers(1, np.array(widths) + 1, size=mutants.shape)
    mutants = np.where(generator.random(mutants.shape) < mutation, drawn, mutants)
    pairs = np.array([generator.choice(len(parents), 2, replace=False) for _ in range(population - half)])
    points = generator.integers(1, max(2, fields), size=len(pairs))
    left = np.arange(fields)[None, :] < points[:, None]
    crossed = np.where(left, parents[pairs[:, 0]], parents[pairs[:, 1]])
    return np.concatenate([mutants, crossed])


class OptEmbed(BudgetedPruner):
    """Learns which rows a table needs, and searches for the width of each table by evolution.

    A plain loop: ``start = copy.deepcopy(model)`` first; ``loss = criterion(model(x), y) + pruner.penalty()``, after
    ``optimizer.step()`` ``pruner.step(validation_loss=lambda: criterion(model(x_val), y_val))``; after the training
    ``pruner.prune()``, then ``small = pruner.restart(start)``, which is trained again.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget the best candidate.
        config: the settings.

    Warns:
        NoEffectWarning: no row and no column goes; or every candidate of the first generation has the same loss.
    """

    config_class = OptEmbedConfig
    default_size = None
    validates = 1
    again = "rewind"
    penalised = True

    def prepare(self) -> None:
        self._candidates: list[list[int]] = []
        self._best: list[int] = []
        self._best_loss, self._generation = float("inf"), 0
        self.refuse_tied_heads()
        if self.budget is not None:
            index_cost(self.budget, self.tables)

    def make_gate(self, table: Table) -> SuperGate:
        return SuperGate(table.rows, table.width)

    def super_gates(self) -> list[SuperGate]:
        """The gates, in the order of ``tables``."""
        return [gate for table in self.tables if isinstance(gate := gate_of(table), SuperGate)]

    def wake(self) -> None:
        """The random prefixes of the next step."""
        for place, gate in enumerate(self.super_gates()):
            gate.hard, gate.learning = self._decided, not self._decided
            gate.key, gate.calls = (self.config.seed, rank(), self.steps_taken, place), 0

    # ---- the super-net

    def parameters(self) -> Sequence[Tensor]:
        """The thresholds until it is decided."""
        return [] if self._decided else [gate.value for gate in self.super_gates()]

    def penalty(self) -> Tensor:
        """Alpha x sum of exp(-t)."""
        self._watch.penalty(self.tables[0].weight)
        self._asked = True
        if self._decided:
            return torch.zeros(())
        device = self.super_gates()[0].value.device
        sums = [torch.exp(-gate.value).sum().to(device) for gate in self.super_gates()]
        value: Tensor = self.config.strength * torch.stack(sums).sum()
        return value

    def learn(self, step: Step) -> None:
        """A step of Adam on the thresholds."""
        grads = gate_gradients(self, step)
        self._moved += 1
        adam(self.super_gates(), grads, self._moved, self.config.lr)

    # ---- evolution

    def on_validation(self, loss: Loss, step: Step) -> None:
        """One generation on this batch, in the last ``search`` of the training.

        Raises:
            ValueError: ``total_steps`` is not known.
        """
        if self._decided or step.number <= (1 - self.config.search) * step.steps_in_all:
            return
        gates, widths = self.super_gates(), [table.width for table in self.tables]
        generator = numpy_generator(self.config.seed, self._generation)
        count = self.config.population
        if not self._candidates:
            drawn = np.stack([generator.integers(1, width + 1, size=count) for width in widths], axis=1)
            self._candidates = self._within(drawn, generator)
        losses = []
        with torch.no_grad():
            for candidate in self._candidates:
                for gate, width in zip(gates, candidate, strict=True):
                    gate.width.fill_(width)
                losses.append(loss().detach().double())
            for gate, width in zip(gates, widths, strict=True):
                gate.width.fill_(width)
        scores = all_mean_(torch.stack(losses)).cpu().numpy()
        if not self._generation and scores.min() == scores.max() and len({tuple(c) for c in self._candidates}) > 1:
            words = "OptEmbed: every candidate has the same validation loss, so evolution has nothing to go by; "
            cure = "the loss must be computed anew at each call, by this model"
            warnings.warn(words + cure, NoEffectWarning, stacklevel=5)
        order = np.argsort(scores, kind="stable")
        self._best, self._best_loss = self._candidates[int(order[0])], float(scores[order[0]])
        parents = np.array(self._candidates)[order[: max(2, count // 2)]]
        self._generation += 1
        children = next_generation(parents, widths, count - 1, self.config.mutation, generator)
        self._candidates = [self._best, *self._within(children, generator)]

    def _within(self, candidates: np.ndarray, generator: np.random.Generator) -> list[list[int]]:
        """The candidates after taking dimensions away at random until each holds to the budget."""
        found: list[list[int]] = candidates.tolist()
        if self.budget is None:
            return found
        rows = [int(g.alive(t.weight).sum()) for g, t in zip(self.super_gates(), self.tables, strict=True)]
        prices = [c * n for c, n in zip(row_costs(self.budget, self.tables), rows, strict=True)]
        left = self.budget_total() - index_cost(self.budget, self.tables)
        for candidate in found:
            while sum(w * p for w, p in zip(candidate, prices, strict=True)) > left * (1 + 1e-9):
                open_ = [place for place, width in enumerate(candidate) if width > 0 and prices[place] > 0]
                candidate[open_[int(generator.integers(len(open_)))]] -= 1
        return found

    def decide(self) -> None:
        gates = self.super_gates()
        best = (
            self._best or self._within(np.array([[t.width for t in self.tables]]), numpy_generator(self.config.seed))[0]
        )
        best = self._within(np.array([best]), numpy_generator(self.config.seed, 1))[0]  # rows may have come back
        for gate, table, width in zip(gates, self.tables, best, strict=True):
            gate.kept.copy_(gate.alive(table.weight))
            gate.width.fill_(width)
        if all(bool(g.kept.all()) and int(g.width) == t.width for g, t in zip(gates, self.tables, strict=True)):
            words = "OptEmbed: every row is above its threshold and every width is full; give a budget, or raise lr"
            warnings.warn(words, NoEffectWarning, stacklevel=6)

    def undo(self) -> None:
        for gate, table in zip(self.super_gates(), self.tables, strict=True):
            gate.kept.fill_(True)
            gate.width.fill_(table.width)

    def spent(self) -> float:
        assert self.budget is not None
        costs = zip(row_costs(self.budget, self.tables), self.super_gates(), strict=True)
        return sum(c * int(g.width) * int(g.kept.sum()) for c, g in costs) + index_cost(self.budget, self.tables)

    def select(self) -> Mapping[str, Selection]:
        self.settle()
        pairs = zip(self.tables, self.super_gates(), strict=True)
        prefix = {t.field: torch.arange(t.width) < int(g.width) for t, g in pairs}
        return {
            t.field: Selection.blocks(g.kept.long(), torch.stack([torch.zeros_like(prefix[t.field]), prefix[t.field]]))
            for t, g in zip(self.tables, self.super_gates(), strict=True)
        }

    def notes(self) -> tuple[str, ...]:
        found = f"evolution: {self._generation} generations, best loss of the last {self._best_loss:.5g}"
        return (found, *super().notes())

    def state(self) -> JsonState:
        found = {"candidates": self._candidates, "best": self._best, "generation": self._generation}
        return {**super().state(), **found, "best_loss": self._best_loss if self._best else None}

    def restore(self, state: JsonState) -> None:
        self._candidates = [list(c) for c in state["candidates"]]
        self._best, self._generation = list(state["best"]), int(state["generation"])
        self._best_loss = float("inf") if state["best_loss"] is None else float(state["best_loss"])
        super().restore(state)
