"""The arms of the DNIS benchmark that search: DNIS as published, a changed one that is ours, ablations and controls.

*As published* (first order, Adam on alpha, Eqs. 4, 8, 9): what remains are the largest |alpha E|, or, for an export
without an index per value, the columns of blocks with the largest mean square of alpha E.

*Ours* changes two things. After the warm start the tables are turned to their principal axes, which changes no
output; dot products leave the axes free, so that without this each row spreads over all columns, and the values that
two tables keep do not meet. And what remains is ranked by what it contributes on alpha's part: the sum over samples of
(value x slope of the logit) squared, per number kept; |alpha E| does not know how often a row is looked up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ctr import sparsity
from benchmarks.ctr.arms import Arms, Outcome, Setting, largest, mean_squares, tables_of, to_principal_axes
from benchmarks.ctr.training import predict
from tamis import pruners

__all__ = ["DNISArms", "Searched", "search"]


class Alpha:
    """Factors in [0, 1] per group and column on a model's looked-up rows; `step` moves them by a validation loss."""

    def __init__(self, model: nn.Module, groups: dict[str, Tensor], dim: int, lr: float, moves: bool) -> None:
        self.value = torch.ones(len(sparsity.group_rows(groups)), dim, requires_grad=True)
        self.optimizer, self.moves, self.learning = torch.optim.Adam([self.value], lr), moves, False
        self.model, self.groups = model, groups
        self.hooks = [
            table.register_forward_hook(self.factor(groups[field])) for field, table in model.embeddings.items()
        ]

    def factor(self, group: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
        def scale(module: nn.Module, call: tuple[Tensor], rows: Tensor) -> Tensor:
            alpha = self.value if self.learning else self.value.detach()
            return rows * alpha[group[call[0]]]

        return scale

    def step(self, *, validation_loss: Callable[[], Tensor]) -> None:
        """Descend the gradient normalised per group, Eq. (8), and clip; a group not looked up has none."""
        if not self.moves:
            validation_loss()  # spent all the same
            return
        self.learning = True
        (gradient,) = torch.autograd.grad(validation_loss(), [self.value])
        self.learning = False
        size = gradient.abs().mean(dim=1, keepdim=True)
        self.value.grad = torch.where(size > 0, gradient / (size + 1e-7), 0.0)
        self.optimizer.step()
        with torch.no_grad():
            self.value.clamp_(0, 1)

    @torch.no_grad()
    def merge(self) -> Tensor:
        """Multiply alpha into the tables, Eq. (4)."""
        for hook in self.hooks:
            hook.remove()
        for field, table in self.model.embeddings.items():
            table.weight.mul_(self.value[self.groups[field]])
        return self.value.detach()


class AlphaSteps:
    """Goes along in `benchmarks.ctr.training.train`: after every step one of ``pruner`` on the next alpha batch."""

    def __init__(self, pruner: Any, model: nn.Module, part: tuple[Tensor, Tensor], batch: int, seed: int) -> None:
        self.pruner, self.model, self.part, self.batch, self.samples = pruner, model, part, batch, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = self.endless()

    def endless(self) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(self.part[0]), generator=self.generator)
            yield from order[: len(order) // self.batch * self.batch].view(-1, self.batch)

    def penalty(self) -> float:
        return 0.0

    def step(self) -> None:
        chosen = next(self.batches)

        def loss() -> Tensor:
            """Of this step's batch; its samples are counted at each call."""
            self.samples += len(chosen)
            return self.model(self.part[0][chosen], self.part[1][chosen])["loss"]

        self.pruner.step(validation_loss=loss)


@dataclass
class Searched:
    """What a search leaves: ``model`` with alpha merged into its tables, ``alpha`` [groups, dim], samples spent.

    ``gain``: contributions on alpha's part, [groups, dim].
    """

    model: nn.Module
    alpha: Tensor
    groups: dict[str, Tensor]
    samples: int
    gain: Tensor


def search(setting: Setting, *, axes: bool = False, moves: bool = True, shuffled: bool = False) -> Searched:
    """Warm start, then alpha and weights in turn.

    Args:
        setting: data, plan, tuned rates.
        axes: turn the tables to their principal axes before alpha moves.
        moves: False: alpha stays 1 (the samples are spent all the same).
        shuffled: the labels of alpha's part are permuted.
    """
    plan, (weights, (ids, labels)) = setting.plan, setting.held
    if shuffled:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(setting.seed + 1))]
    model = setting.build()
    warm = setting.train(model, plan.warm, "search", data=weights)
    if axes:
        to_principal_axes(model)
    groups = sparsity.frequency_blocks(weights, setting.tuned.get("blocks, DNIS", 10))
    alpha = Alpha(model, groups, plan.dim, 0.01, moves)
    steps = AlphaSteps(alpha, model, (ids, labels), setting.batch, setting.seed)
    run = setting.train(model, plan.search, "search", data=weights, pruner=steps, patience_from=plan.search - 1)
    merged = alpha.merge()
    gain = contributions(model, groups, ids, plan.dim, setting.batch)
    return Searched(model, merged, groups, warm.samples + run.samples + steps.samples + len(ids), gain)


def contributions(model: nn.Module, groups: dict[str, Tensor], ids: Tensor, dim: int, batch: int) -> Tensor:
    """Sum over samples of (value x slope of the logit) squared, per group and column, [groups, dim]."""
    total, caught = torch.zeros(len(sparsity.group_rows(groups)), dim), []
    hooks = [
        table.register_forward_hook(lambda module, call, rows, field=field: caught.append((field, call[0], rows)))
        for field, table in model.embeddings.items()
    ]
    for part in ids.split(batch):
        caught.clear()
        logits = model(part)["logits"]
        slopes = torch.autograd.grad(logits.sum(), [rows for _, _, rows in caught])
        for (field, looked_up, rows), slope in zip(caught, slopes, strict=True):
            total.index_add_(0, groups[field][looked_up], (rows * slope).detach().square())
    for hook in hooks:
        hook.remove()
    return total


def gate_masks(table: Any) -> Tensor:
    """Which values of a table `tamis.pruners.DNIS` keeps, bool [rows, dim]."""
    gate = table.modules[0].gate
    return gate.kept if gate.values else gate.kept[gate.block.long()]


class DNISArms:
    """DNIS at every share from one search a kind; ``arms``: those of the same seed."""

    def __init__(self, arms: Arms) -> None:
        self.setting, self.plan, self.arms = arms.setting, arms.plan, arms

    @cached_property
    def published(self) -> Searched:
        return search(self.setting)

    @cached_property
    def ours(self) -> Searched:
        return search(self.setting, axes=True)

    @cached_property
    def still(self) -> Searched:
        return search(self.setting, axes=True, moves=False)

    @cached_property
    def misled(self) -> Searched:
        return search(self.setting, axes=True, shuffled=True)

    @cached_property
    def published_misled(self) -> Searched:
        return search(self.setting, shuffled=True)

    def values(self, share: float, found: Searched, gain: bool) -> Outcome:
        """The largest |alpha E|, Eq. (9); with ``gain`` each square times its column's contribution per energy."""
        tables = tables_of(found.model)
        if gain:
            slope = found.gain / sparsity.group_rows(found.groups)[:, None]
            slope = slope / mean_squares(tables, found.groups).clamp(min=1e-12)
            tables = {field: table * slope.sqrt()[found.groups[field]] for field, table in tables.items()}
        return self.retrained(found, largest(tables, share), share)

    def columns(self, share: float, found: Searched, gain: bool) -> Outcome:
        """The columns of blocks with the largest mean square of alpha E, or contribution per number."""
        return self.retrained(found, self.masks(share, found, gain), share, found.groups)

    def masks(self, share: float, found: Searched, gain: bool) -> dict[str, Tensor]:
        rows = sparsity.group_rows(found.groups)[:, None]
        scores = found.gain / rows if gain else mean_squares(tables_of(found.model), found.groups)
        return sparsity.column_mask(found.groups, scores, share)

    def random_columns(self, share: float) -> Outcome:
        """As many columns of every block as ours keeps, drawn at random."""
        found, counts = self.ours, torch.zeros(len(self.ours.alpha), dtype=torch.long)
        for field, mask in self.masks(share, found, True).items():
            counts[found.groups[field]] = mask.sum(1)
        drawn = sparsity.random_columns(found.groups, counts, self.plan.dim, self.setting.seed)
        return self.retrained(found, drawn, share, found.groups)

    def retrained(
        self, found: Searched, masks: dict[str, Tensor], share: float, groups: dict[str, Tensor] | None = None
    ) -> Outcome:
        """Train a copy on what is left of the budget, on the 80 %."""
        alpha = found.alpha
        quarters = [round(float(part.mean()), 3) for part in alpha.chunk(4)]
        more = {
            "alpha": {"mean": float(alpha.mean()), "zero": float((alpha == 0).float().mean()), "quarters": quarters}
        }
        model, left = copy.deepcopy(found.model), self.plan.retraining
        return self.arms.masked(model, found.samples, masks, left, "DNIS", share, groups, more)

    def library(self, share: float, structured: bool) -> Outcome:
        """`tamis.pruners.DNIS` as a user runs it: it counts, learns, holds what goes at zero, and cuts at the end.

        Its budget is in bytes, index included: that of ``share`` of the numbers and their index.
        """
        setting, plan, (weights, alpha_part) = self.setting, self.plan, self.setting.held
        warm, search, rest = (
            epochs * (len(data.train[0]) // setting.batch)
            for epochs, data in ((plan.warm, weights), (plan.search, weights), (plan.retraining, setting.data))
        )
        total, model = warm + search + rest, setting.build()
        rows, numbers = list(setting.data.sizes.values()), int(share * setting.data.rows * plan.dim)
        index = sum(n if n <= 2**8 else 4 * n for n in rows) if structured else numbers + sum(4 * (n + 1) for n in rows)
        pruner = pruners.DNIS(
            model,
            budget_bytes=4 * numbers + index,
            tables={field: f"embeddings.{field}" for field in setting.data.sizes},
            config=pruners.DNISConfig(warm_up=warm / total, decide_by=(warm + search) / total, structured=structured),
            total_steps=total,
        )
        steps = AlphaSteps(pruner, model, alpha_part, setting.batch, setting.seed)
        searching = plan.warm + plan.search
        first = setting.train(model, searching, "search", data=weights, pruner=steps, patience_from=searching - 1)
        run = setting.train(model, plan.retraining, f"DNIS, {share:g}", pruner=steps, patience=plan.retraining)
        kept = {table.field: gate_masks(table) for table in pruner.tables}
        notes = list(pruner.notes())
        pruner.prune()
        ids, labels = setting.data.test
        run.test = setting.score(predict(model, ids), labels.numpy())
        spent = first.samples + steps.samples
        return Outcome(run, spent, sparsity.kept_share(kept), 4 * numbers + index, {"notes": notes})

    def methods(self, share: float) -> dict[str, Callable[[], Outcome]]:
        """Arm -> what trains it."""
        library = {
            "tamis.pruners.DNIS, columns of blocks": lambda: self.library(share, True),
            "tamis.pruners.DNIS, values": lambda: self.library(share, False),
        }
        return (library if hasattr(pruners, "DNIS") else {}) | {
            "DNIS ours, columns of blocks": lambda: self.columns(share, self.ours, True),
            "DNIS, columns of blocks": lambda: self.columns(share, self.published, False),
            "DNIS, values": lambda: self.values(share, self.published, False),
            "DNIS ours, values": lambda: self.values(share, self.ours, True),
            "DNIS ours, columns, alpha fixed at 1": lambda: self.columns(share, self.still, True),
            "DNIS ours, columns, alpha's labels shuffled": lambda: self.columns(share, self.misled, True),
            "DNIS, columns, alpha's labels shuffled": lambda: self.columns(share, self.published_misled, False),
            "random columns, our counts": lambda: self.random_columns(share),
        }
