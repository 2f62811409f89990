"""`DNIS`; the package's docstring has the citation, the symbols and the deviations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.distributed import all_mean_
from tamis.core.errors import NoEffectWarning, NotPolarisedError
from tamis.core.types import JsonState
from tamis.pruners.arguments import check_config
from tamis.pruners.base import Loss, Pruner, Step
from tamis.pruners.budget import Budget, split_by_budget
from tamis.pruners.dnis.axes import turn_tables
from tamis.pruners.dnis.config import DNISConfig
from tamis.pruners.dnis.equations import alpha_step, blocks_by_frequency, flipped, normalised, validation_gradient
from tamis.pruners.dnis.gate import BlockGate
from tamis.pruners.gates import gate_of
from tamis.pruners.selection import Selection
from tamis.pruners.surgery.narrow import used_elsewhere
from tamis.pruners.tables import Table

__all__ = ["DNIS"]

MEMORY = 50  # validation batches that the running mean of contributions goes back
_AXES = {
    None: "not tried, since alpha never moved",
    "turned": "all tables were turned to their principal axes after the warm-up; the validation loss did not change",
    "loss": "left as they were: turning the tables changes the loss (they meet in more than dot products)",
    "widths": "left as they were: the tables have different widths",
    "frozen": "left as they were: a table is frozen (requires_grad=False)",
}


class DNIS(Pruner):
    """Learns per block of rows which columns a table needs, from validation batches, and keeps a share of them.

    A plain loop: ``pruner.step(validation_loss=lambda: criterion(model(x_val), y_val))`` after ``optimizer.step()``,
    with a new validation batch each time, and ``plan = pruner.prune(optimizer)`` at the end. In a Trainer:
    ``PruningCallback(DNIS(model, size=0.1), validation=dataset)``. Judge the result on data that is neither: alpha
    has seen the validation batches.

    Args:
        model: not wrapped for data-parallel training yet. Tables of width 1 are left alone unless named.
        size: share of the tables' bytes to keep, in (0, 1]; without any budget 0.2. What says where the rows of a
            block stand (4 bytes a row, 1 below 257 rows) is part of it.
        keep: share of all (table, dimension) pairs to keep instead, in (0, 1]; the block of a table counts as the
            share of its rows, and an index costs nothing.
        budget_bytes: keep at most this many bytes in all tables instead, index included.
        tables: field name -> module path, to gate only these tables; None: all of them.
        frequencies: field name -> [n], how often each row occurs in the training data; None: counted during the
            warm-up, by all ranks together.
        config: the settings.
        total_steps: how many optimizer steps the training will have; a trainer's callback calls `begin` instead.

    Raises:
        TypeError: ``model`` is not an nn.Module, or wrapped already, or a named module is not a plain embedding.
        ValueError: a budget out of range, too small for its index, or more than one given; frequencies that do not
            fit, or neither frequencies nor a warm-up.
    """

    validates = 1

    def __init__(
        self,
        model: nn.Module,
        size: float | None = None,
        *,
        keep: float | None = None,
        budget_bytes: int | None = None,
        tables: Mapping[str, str] | None = None,
        frequencies: Mapping[str, Tensor] | None = None,
        config: DNISConfig | None = None,
        total_steps: int | None = None,
    ) -> None:
        size = 0.2 if size is None and keep is None and budget_bytes is None else size
        self.budget = Budget(keep=keep, size=size, bytes=budget_bytes)
        self.config: DNISConfig = check_config(self, config, DNISConfig)
        super().__init__(model, tables=tables, total_steps=total_steps)
        self._refuse_tied_heads()
        self._refuse_small_budget()
        self._blocked = self._decided = False
        self._turned: str | None = None
        self._decided_at_cut = False
        self.trains = int(self.config.xi > 0)
        self._moved = 0
        if frequencies is not None:
            self._assign_blocks(self._checked(frequencies))
        elif self.config.warm_up == 0:
            raise ValueError("warm_up=0: the rows' frequencies are counted during the warm-up; give frequencies={...}")
        for table in self.tables:
            table.count_lookups(not self._blocked)

    def make_gate(self, table: Table) -> BlockGate:
        blocks = self.config.blocks
        count = blocks if isinstance(blocks, int) else len(blocks) + 1
        return BlockGate(table.rows, table.width, min(count, table.rows), values=not self.config.structured)

    def _block_gates(self) -> list[BlockGate]:
        return [gate for table in self.tables if isinstance(gate := gate_of(table), BlockGate)]

    def _refuse_tied_heads(self) -> None:
        for table in self.tables:
            if used_elsewhere(self.model, table.modules):
                raise ValueError(
                    f"tables: {table.field!r} is also the weight of another layer (a tied output head), which keeps "
                    "the full tensor, so the model would grow; untie it, or name the other tables in tables="
                )

    def _refuse_small_budget(self) -> None:
        (costs, budget), index = self.budget.costs(self.tables), self._fixed_cost()
        least = (
            0.0 if self.budget.keep is not None else min(costs) / max(len(gate.alpha) for gate in self._block_gates())
        )
        if budget <= index + least:
            raise ValueError(
                f"{self.budget}: holds {budget:,.0f} bytes, and what says where the rows stand takes {index:,.0f} of "
                f"them, a column of one block {least:,.0f} more; give a larger budget, or take DimReg, whose columns "
                "need no index"
            )

    # ---- blocks

    def _checked(self, frequencies: Mapping[str, Tensor]) -> list[Tensor]:
        counts = []
        for table in self.tables:
            found = frequencies.get(table.field)
            if found is None or list(found.shape) != [table.rows]:
                got = "nothing" if found is None else f"shape {list(found.shape)}"
                raise ValueError(
                    f"frequencies[{table.field!r}]: must count the {table.rows} rows of the table, got {got}"
                )
            if not bool((torch.isfinite(found) & (found >= 0)).all()):
                raise ValueError(f"frequencies[{table.field!r}]: must be finite and >= 0; counts of the training data")
            counts.append(found)
        return counts

    def _assign_blocks(self, counts: Sequence[Tensor]) -> None:
        for gate, count in zip(self._block_gates(), counts, strict=True):
            block = blocks_by_frequency(count, self.config.blocks, self.config.block_by).clamp(max=len(gate.alpha) - 1)
            gate.block.copy_(block)
            gate.active = True
        self._blocked = True

    # ---- training

    def after_step(self, step: Step) -> None:
        """Count lookups during the warm-up; then sort rows into blocks; at ``decide_by`` hold what goes at zero."""
        c = self.config
        warm = step.number < c.warm_up * step.steps_in_all
        if not self._blocked:
            for table in self.tables:
                table.merge_lookups()
            if not warm:
                counts = [table.lookups() for table in self.tables]
                whole = [torch.zeros(t.rows) if n is None else n for t, n in zip(self.tables, counts, strict=True)]
                self._assign_blocks(whole)
                for table in self.tables:
                    table.count_lookups(False)
        if c.decide_by < 1 and not self._decided and step.number >= c.decide_by * step.steps_in_all:
            self._decide()

    def on_validation(self, loss: Loss, step: Step) -> None:
        """One step of alpha, lines 7 to 9 of Alg. 1; none during the warm-up and once the cut is decided."""
        if not self._blocked or self._decided or step.number < self.config.warm_up * step.steps_in_all:
            return
        gates = self._block_gates()
        if self.config.axes and self._turned is None:
            self._turned = turn_tables(self.tables, loss)
        weights = [p for p in self.model.parameters() if p.requires_grad] if self.config.xi else []
        for gate in gates:
            gate.learning = True

        def watched() -> Tensor:
            for gate in gates:
                gate.catching = True
            try:
                return loss()
            finally:
                for gate in gates:
                    gate.catching = False

        try:
            gradients = validation_gradient(
                watched, [gate.alpha for gate in gates], training=step.training_loss, weights=weights, xi=self.config.xi
            )
        finally:
            for gate in gates:
                gate.learning = False
        self._move(gates, gradients, step)

    @torch.no_grad()
    def _move(self, gates: Sequence[BlockGate], gradients: Sequence[Tensor], step: Step) -> None:
        means = [all_mean_(gradient.detach().float()) for gradient in gradients]
        if not all(bool(torch.isfinite(mean).all()) for mean in means):
            raise FloatingPointError(
                f"DNIS.step(): the validation loss has no finite gradient at step {step.number}; lower the learning "
                "rate, or look at the validation data"
            )
        self._moved += 1
        for number, (gate, mean) in enumerate(zip(gates, means, strict=True)):
            direction = normalised(mean, self.config.eps)
            gate.alpha.copy_(alpha_step(gate.alpha, direction, self.config))
            noise = flipped(direction, self.config.seed, step.number, number)
            gate.control.copy_(alpha_step(gate.control, noise, self.config))
            gate.gain.lerp_(all_mean_(gate.take_caught()), 1 / min(self._moved, MEMORY))

    def logs(self) -> dict[str, float]:
        """Mean alpha, and of the control."""
        alpha, control = (float(torch.cat([values.flatten() for values in found]).mean()) for found in self._factors())
        return {"tamis/alpha": alpha, "tamis/alpha_control": control}

    # ---- the cut

    @torch.no_grad()
    def _decide(self) -> None:
        """Hold at zero what goes; the rest of alpha stays as it is from here on."""
        if all(bool((gate.alpha > 0.99).all()) for gate in self._block_gates()):
            warnings.warn(
                "DNIS: alpha changes nothing: all of it is still 1; give it more steps (a lower warm_up, a later "
                "decide_by) or a larger alpha_lr",
                NoEffectWarning,
                stacklevel=4,
            )
        for gate, keep in zip(self._block_gates(), self._keep(), strict=True):
            gate.kept.copy_(keep)
        self._decided = True
        empty = [t.field for t, gate in zip(self.tables, self._block_gates(), strict=True) if not gate.kept.any()]
        if empty:
            warnings.warn(
                f"DNIS: {self.budget} leaves nothing of the tables {', '.join(empty)}: every row of them reads as zero "
                "from now on; give a larger budget, or leave them out with tables=",
                UserWarning,
                stacklevel=4,
            )

    def _keep(self) -> list[Tensor]:
        """What the budget holds of each merged table [n, K]: bool [L, K], or [n, K] if not ``structured``."""
        gates = self._block_gates()
        scores, costs = [], []
        per_dimension, budget = self.budget.costs(self.tables)
        for gate, table, cost in zip(gates, self.tables, per_dimension, strict=True):
            square, block = gate.merged(table.weight).double().square(), gate.block.long()
            rows = torch.bincount(block, minlength=len(gate.alpha)).to(square.device)[:, None]
            worth = square.new_zeros(gate.alpha.shape).index_add_(0, block, square) / rows.clamp(min=1)
            if self.config.rank == "contribution" and self._moved:
                gain = gate.gain.double() / rows.clamp(min=1)
                square = square * (gain / worth.clamp(min=1e-30))[block]
                worth = gain
            if self.config.structured:
                square, price = worth, (cost * rows / table.rows).clamp(min=1e-12).expand_as(worth)
            else:
                price = square.new_full((), cost / table.rows + self._index_cost(table)).expand_as(square)
            scores.append((square * price).reshape(-1).cpu())
            costs.append(price.reshape(-1).double().cpu())
        split = split_by_budget(torch.cat(scores), torch.cat(costs), budget - self._fixed_cost())
        parts = torch.split(split, [len(score) for score in scores])
        shaped = zip(parts, gates, self.tables, strict=True)
        return [
            part.reshape(gate.alpha.shape if self.config.structured else table.weight.shape).to(gate.alpha.device)
            for part, gate, table in shaped
        ]

    def _index_cost(self, table: Table) -> float:
        """Bytes of one value's column number, where the budget counts bytes."""
        return 0.0 if self.budget.keep is not None else 1.0 if table.width <= 2**8 else 4.0

    def _fixed_cost(self) -> float:
        """Bytes that say where each row stands, where the budget counts bytes."""
        if self.budget.keep is not None:
            return 0.0
        if not self.config.structured:
            return float(sum(4 * (table.rows + 1) for table in self.tables))
        return float(sum((1 if table.rows <= 2**8 else 4) * table.rows for table in self.tables))

    def check_settled(self) -> None:
        if not self._moved:
            raise NotPolarisedError(
                f"DNIS.prune(): alpha never moved (step {self.steps_taken} of total_steps={self._total_steps}, warm-up "
                f"{self.config.warm_up:g}), so nothing was cut; call pruner.step(validation_loss=...) after each "
                "optimizer step to the end of the training, correct total_steps if the training has fewer steps, or "
                "cut by magnitude all the same: prune(force=True)"
            )

    def select(self) -> Mapping[str, Selection]:
        if not self._blocked:
            self._assign_blocks([torch.zeros(table.rows) for table in self.tables])
        if self._decided and self._spent() > 1 + 1e-9:
            warnings.warn(
                "DNIS: the model holds more than its budget: it was restored from before the cut was decided (as "
                "load_best_model_at_end does); what remains is decided anew, without training after it",
                UserWarning,
                stacklevel=3,
            )
            self._decided = False
        if not self._decided:
            self._decide()
            self._decided_at_cut = True
        return {
            table.field: Selection(mask=gate.kept.cpu()) if gate.values else Selection.blocks(gate.block, gate.kept)
            for table, gate in zip(self.tables, self._block_gates(), strict=True)
        }

    def undo_select(self) -> None:
        """The cut failed: what it decided is not decided."""
        if self._decided_at_cut:
            self._decided = self._decided_at_cut = False
            for gate in self._block_gates():
                gate.kept.fill_(True)

    def _spent(self) -> float:
        """What is kept costs, in budgets."""
        costs, budget = self.budget.costs(self.tables)
        spent = self._fixed_cost()
        for gate, table, cost in zip(self._block_gates(), self.tables, costs, strict=True):
            kept = gate.kept if gate.values else gate.kept[gate.block.long()]
            spent += float(kept.sum()) * (cost / table.rows + (self._index_cost(table) if gate.values else 0.0))
        return spent / budget

    def notes(self) -> tuple[str, ...]:
        """Per table alpha's mean of each block, from head to tail, and in brackets that of the control."""
        lines = [f"alpha after {self._moved} validation steps, mean of each block from head to tail (random signs):"]
        for table, gate in zip(self.tables, self._block_gates(), strict=True):
            pairs = zip(gate.alpha.detach().mean(1).tolist(), gate.control.mean(1).tolist(), strict=True)
            lines.append(f"  {table.field}: " + ", ".join(f"{alpha:.2f} ({noise:.2f})" for alpha, noise in pairs))
        spread, noise = (float(torch.cat([values.flatten() for values in found]).std()) for found in self._factors())
        lines.append(f"spread of alpha over blocks and columns: {spread:.3f}; under random signs: {noise:.3f}")
        if self.config.axes:
            lines.append(f"axes: {_AXES[self._turned]}")
        return tuple(lines)

    def _factors(self) -> tuple[list[Tensor], list[Tensor]]:
        gates = self._block_gates()
        return [gate.alpha.detach() for gate in gates], [gate.control for gate in gates]

    # ---- state

    def settings(self) -> dict[str, Any]:
        asked = {"keep": self.budget.keep, "size": self.budget.size, "budget_bytes": self.budget.bytes}
        return {**asked, **asdict(self.config)}

    def state(self) -> JsonState:
        return {"blocked": self._blocked, "turned": self._turned, "decided": self._decided, "moved": self._moved}

    def restore(self, state: JsonState) -> None:
        self._turned = state["turned"]
        self._blocked, self._decided, self._moved = state["blocked"], state["decided"], int(state["moved"])
        for table, gate in zip(self.tables, self._block_gates(), strict=True):
            gate.active = self._blocked
            table.count_lookups(not self._blocked)
