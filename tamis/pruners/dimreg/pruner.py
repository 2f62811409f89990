"""`DimReg`; the package's docstring has the citation, the symbols and the deviations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.distributed import all_mean_
from tamis.core.rng import torch_generator
from tamis.core.types import JsonState
from tamis.pruners.arguments import check_config
from tamis.pruners.base import Pruner, Step
from tamis.pruners.budget import Budget, check_budget
from tamis.pruners.dimreg.config import DimRegConfig, ThesisConfig
from tamis.pruners.dimreg.polarisation import given_gradient
from tamis.pruners.dimreg.rules import BudgetRule, Gradients, MeanRule, Rule
from tamis.pruners.dimreg.saved import adopted, in_todays_words
from tamis.pruners.dimreg.settled import refuse_unsettled
from tamis.pruners.gates import ColumnGate, gate_of
from tamis.pruners.selection import Selection
from tamis.pruners.stored_budget import stored_prices
from tamis.pruners.surgery.packing import check_stored
from tamis.pruners.tables import Table

__all__ = ["DimReg"]

DEFAULT_SIZE = 0.2
COUNT_EVERY = 8  # lookups are counted on every 8th step: enough to weight rows by, and nearly free


class DimReg(Pruner):
    """Gates every embedding table of ``model`` in place, learns which dimensions to keep, and cuts the others.

    A plain loop: ``loss = criterion(model(x), y) + pruner.penalty()``, ``pruner.step()`` after ``optimizer.step()``,
    ``plan = pruner.prune(optimizer)`` at the end. The gates are no parameters of the model: they have their own
    update, and the optimizer, its weight decay and gradient clipping do not see them.

    A small table keeps at most as many dimensions as it has rows, whatever the budget would hold: its rank.

    Args:
        model: not wrapped for data-parallel training yet. Tables of width 1 are left alone unless named.
        size: share of the tables' bytes to keep, in (0, 1]; without any budget 0.2, as in every pruner here. Not used
            with `ThesisConfig`, and neither are the two others.
        keep: share of all (table, dimension) pairs to keep instead, in (0, 1], the paper's count: a dimension of a
            table of 5 rows counts as much as one of 5 million.
        budget_bytes: keep dimensions of at most this many bytes in all tables instead.
        tables: field name -> module path, to gate only these tables; None: all of them.
        config: the settings; a `ThesisConfig` for the thesis' own form.
        total_steps: how many optimizer steps the training will have; a trainer's callback calls `begin` instead.
        quantize: what `prune` stores the tables as: ``int8``, ``int4`` or ``int2``. ``size`` and ``budget_bytes`` then
            count the bytes of that type, scales and biases included; ``size`` is their share of the float bytes.
        deprecated: the second argument without a name, which was ``keep``.

    Raises:
        TypeError: ``model`` is not an nn.Module, or wrapped already, or a named module is not a plain embedding.
        ValueError: a budget out of range, too small for any dimension or more than one given, or a table that
            `find_tables` refuses.

    Warns:
        NoEffectWarning: the budget holds every dimension.
        UserWarning: it holds less than one dimension of every table, so that some will keep nothing.
        FutureWarning: a budget without a name.
    """

    def __init__(
        self,
        model: nn.Module,
        *deprecated: float,
        size: float | None = None,
        keep: float | None = None,
        budget_bytes: int | None = None,
        tables: Mapping[str, str] | None = None,
        config: DimRegConfig | ThesisConfig | None = None,
        total_steps: int | None = None,
        quantize: str | None = None,
    ) -> None:
        if quantize is not None:
            check_stored("quantize", quantize)
        self.quantize = quantize
        keep = _named(deprecated, keep)
        self._by_default = (size is None and keep is None and budget_bytes is None, config is None)
        self.budget = Budget(keep=keep, size=DEFAULT_SIZE if self._by_default[0] else size, bytes=budget_bytes)
        self.config: DimRegConfig | ThesisConfig = check_config(self, config, (DimRegConfig, ThesisConfig))
        super().__init__(model, tables=tables, total_steps=total_steps)
        count = sum(table.width for table in self.tables)
        self.rule: Rule = self._rule()
        noise = torch.randn(count, generator=torch_generator(self.config.seed))
        with torch.no_grad():
            self._write(self.config.init_logit + self.config.init_spread * noise)
        self._leaf = torch.zeros(count, requires_grad=True)  # takes the penalty's gradient, apart from the task's

    def _rule(self) -> Rule:
        widths = [table.width for table in self.tables]
        if isinstance(self.config, ThesisConfig):
            return MeanRule(widths, self.config)
        costs, budget = self.budget.costs(self.tables)
        counts_bytes = self.quantize is not None and self.budget.keep is None
        prices = stored_prices(self.tables, str(self.quantize)) if counts_bytes else None
        if prices is not None:
            costs = [float(price[1]) for price in prices]
        check_budget(self.budget, self.tables, costs, budget, None if prices is None else [p[-1] for p in prices])
        per_gate = torch.tensor(costs, dtype=torch.float64).repeat_interleave(torch.tensor(widths))
        return BudgetRule(widths, self.config, per_gate, budget, [table.rank for table in self.tables], prices)

    # ---- gates

    def make_gate(self, table: Table) -> ColumnGate:
        return ColumnGate(torch.zeros(table.width))

    @property
    def gates(self) -> Tensor:
        """The phi of all tables in order, [n] in (0, 1), a copy."""
        return torch.sigmoid(self._read())

    def _read(self) -> Tensor:
        """The alpha of all tables, [n], on the first table's device."""
        device = gate_of(self.tables[0]).leaves()[0].device
        return torch.cat([gate_of(table).leaves()[0].detach().to(device) for table in self.tables])

    def _write(self, logits: Tensor) -> None:
        for table, part in zip(self.tables, torch.split(logits, [table.width for table in self.tables]), strict=True):
            gate_of(table).leaves()[0].copy_(part)

    def _follow(self) -> None:
        """Bring what the pruner holds to the device of the first table."""
        device = gate_of(self.tables[0]).leaves()[0].device
        if self._leaf.device != device:
            self.rule.to(device)
            self._leaf = self._leaf.detach().to(device).requires_grad_()

    # ---- penalty

    def parameters(self) -> Sequence[Tensor]:
        """One leaf [n] that collects the penalty's gradient with respect to phi."""
        return [self._leaf]

    def penalty(self) -> Tensor:
        self._watch.penalty(self.tables[0].weight)
        self._follow()
        return given_gradient(self._leaf, *self.rule.penalty(self.gates))

    def add_penalty_grad(self, scale: float = 1.0) -> float:
        self._watch.penalty(self.tables[0].weight)
        self._follow()
        value, slope = self.rule.penalty(self.gates)
        slope = slope * scale
        self._leaf.grad = slope if self._leaf.grad is None else self._leaf.grad + slope
        return float(value)

    # ---- training

    def after_step(self, step: Step) -> None:
        """Move the gates, and now and then the split; nothing once the split is fixed and every gate is where it ends.

        Raises:
            ValueError: ``total_steps`` is not known.
            RuntimeError: no penalty since the last step.
            FloatingPointError: the gates' gradient is not finite (a NaN loss); the gates stay as they were.
        """
        gates = self._column_gates()
        if self.rule.is_over(step) and not any(gate.learning for gate in gates):
            return
        self._follow()
        logits = self.rule.move(self._read(), self._gradients(step), step)
        self._write(logits)
        for table in self.tables:
            if table.is_counting:
                table.merge_lookups()
        self._count_next(step)
        self.rule.decide(torch.sigmoid(logits), self.tables, step)
        arrived = self.rule.is_over(step) and self.rule.arrived(logits)
        for gate in gates:
            gate.learning = not arrived

    def _column_gates(self) -> list[ColumnGate]:
        return [gate for table in self.tables if isinstance(gate := gate_of(table), ColumnGate)]

    def _count_next(self, step: Step) -> None:
        """Whether the lookups of the step after ``step`` are counted: now and then, until all is decided."""
        on = step.number % COUNT_EVERY == 0 and not self.rule.is_over(step)
        for table in self.tables:
            table.count_lookups(on)

    def _gradients(self, step: Step) -> Gradients:
        if self._leaf.grad is None:
            raise RuntimeError("DimReg.step(): no penalty since the last step; add pruner.penalty() to the loss")
        leaves = [gate_of(table).leaves()[0] for table in self.tables]
        parts = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        task = all_mean_(torch.cat([part.to(self._leaf.device) for part in parts])) / step.grad_scale
        if not bool(torch.isfinite(task).all()):
            raise FloatingPointError(
                f"DimReg.step(): the gates' gradient is not finite at step {step.number - 1}, so the loss was NaN or "
                "infinite; lower the learning rate, or call skip_step() where the optimizer skipped its step"
            )
        return Gradients(task, self._leaf.grad / step.grad_scale)

    def logs(self) -> dict[str, float]:
        """Share of open gates, the penalty, and the share of half-open gates."""
        self._follow()
        phi = self.gates
        half = (phi > self.config.threshold) & (phi < 0.5)
        return {
            "tamis/keep_share": float((phi >= 0.5).float().mean()),
            "tamis/penalty": float(self.rule.penalty(phi)[0]),
            "tamis/half_open": float(half.float().mean()),
        }

    # ---- the cut

    def check_settled(self) -> None:
        phi = self.gates
        spent = self.rule.spent(phi) if isinstance(self.rule, BudgetRule) else None
        progress = f"step {self.steps_taken} of total_steps={self._total_steps}"
        refuse_unsettled(self.rule.per_table(phi), self.tables, spent, self.config, progress)

    def select(self) -> Mapping[str, Selection]:
        phi = self.rule.per_table(self.gates)
        kept = [Selection.columns((part >= 0.5).nonzero()[:, 0]) for part in phi]
        return {table.field: selection for table, selection in zip(self.tables, kept, strict=True)}

    # ---- state

    def settings(self) -> dict[str, Any]:
        split = "mean" if isinstance(self.config, ThesisConfig) else "budget"
        asked = {"keep": self.budget.keep, "size": self.budget.size, "budget_bytes": self.budget.bytes}
        return {**asked, "split": split, "quantize": self.quantize, **asdict(self.config)}

    def adopt(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Take over a saved budget and saved settings where the user left this pruner's to the defaults."""
        saved = in_todays_words(saved)
        budget, config = adopted(saved, self.budget, self.config, self._by_default)
        if (budget, config) != (self.budget, self.config):
            self.budget, self.config = budget, config
            self.rule = self._rule()
        return saved

    def state(self) -> JsonState:
        return self.rule.state()

    def restore(self, state: JsonState) -> None:
        self.rule.restore(state)
        self._count_next(Step(self.steps_taken, self._total_steps))


def _named(deprecated: tuple[float, ...], keep: float | None) -> float | None:
    """``keep``, given with or without its name.

    Raises:
        TypeError: given both ways, or more arguments than one.
    """
    if not deprecated:
        return keep
    if keep is not None or len(deprecated) > 1:
        raise TypeError(f"DimReg(model, {deprecated[0]!r}, ...): name the budget, as DimReg(model, size=0.2)")
    words = f"DimReg(model, {deprecated[0]!r}) is deprecated: write keep={deprecated[0]!r}, a share of the (table, "
    words += "dimension) pairs, or size=, a share of the bytes"
    warnings.warn(words, FutureWarning, stacklevel=3)
    return deprecated[0]
