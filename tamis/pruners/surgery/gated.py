"""The cut of a gated model: gates off and folded into their tables, then `cut`, then quantised; what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.types import Batch, OptimizerLike
from tamis.pruners.gates import Gate, gate_of, install, remove
from tamis.pruners.selection import Selection
from tamis.pruners.surgery.cut import prepare_cut
from tamis.pruners.surgery.narrow import untie
from tamis.pruners.surgery.plan import PruningPlan
from tamis.pruners.surgery.quantize import quantize_embeddings
from tamis.pruners.surgery.report import PruningReport
from tamis.pruners.surgery.store import check_numbers
from tamis.pruners.surgery.trace import run_model
from tamis.pruners.surgery.transplant import narrow_parameter, unwrap_optimizers
from tamis.pruners.tables import Table

__all__ = ["cut_gated", "largest_change", "refuse_not_finite"]


def cut_gated(
    model: nn.Module,
    tables: Sequence[Table],
    selections: Mapping[str, Selection],
    *,
    example_inputs: Batch | None,
    optimizer: OptimizerLike | None,
    notes: tuple[str, ...] = (),
    quantize: str | None = None,
    **options: Any,
) -> tuple[PruningPlan, PruningReport]:
    """Take the gates off, fold them into their tables, and cut.

    Args:
        model: gated.
        tables: its tables, gated or not.
        selections: field -> what remains; tables that are not named remain whole.
        example_inputs: for `cut`, and to compare the outputs with the gated model's.
        optimizer: for `cut`.
        notes: lines that the report ends with.
        quantize: store what is left as this type; None: as it was.
        options: for `cut`: ``consumers``, ``project``.

    Raises:
        FloatingPointError: a table holds NaN or infinity; nothing is changed.
        TypeError, ValueError: as `cut`, or numbers too large for ``quantize``; nothing is changed.
    """
    refuse_not_finite(tables)
    unknown = selections.keys() - {table.field for table in tables}
    if unknown:
        raise ValueError(f"select(): names {sorted(unknown)}, which are not among the pruner's tables")
    for table in tables if quantize is not None else ():
        check_numbers(table.field, table.weight, str(quantize))
    before = None if example_inputs is None else run_model(model, example_inputs)
    gates, lookups = _take_off(tables)
    kept = {table.paths[0]: selections.get(table.field, _whole(table)) for table in tables}
    try:
        prepared = prepare_cut(model, kept, optimizer=optimizer, **options)
    except BaseException:
        _put_back(tables, gates, lookups)
        raise
    removed = 0.0
    for table, gate in zip(tables, gates, strict=True):
        if gate is not None:
            _own(model, table, optimizer)
            gate.fold(table.weight.data)
        removed = max(removed, kept[table.paths[0]].largest_removed(table.weight))
    plan = prepared.run(example_inputs)
    change = rounding = None
    if before is not None and example_inputs is not None:
        after = run_model(model, example_inputs)
        change = largest_change(before, after)
    if quantize is not None:
        plan = quantize_embeddings(model, quantize, tables=list(plan.tables))
        if change is not None and example_inputs is not None:
            rounding = largest_change(after, run_model(model, example_inputs))
    fields = {table.field: table.paths[0] for table in tables}
    return plan, PruningReport(plan, fields, removed, change, notes, rounding)


def largest_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest |difference| of two outputs of `run_model`."""
    pairs = zip(before, after, strict=True)
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)


def refuse_not_finite(tables: Sequence[Table]) -> list[Tensor]:
    """Largest |V| of every dimension over all rows, looked up or not; per table [d].

    Raises:
        FloatingPointError: a table holds NaN or infinity.
    """
    peaks = []
    for table in tables:
        low, high = torch.aminmax(table.weight.detach(), dim=0)
        peak = torch.maximum(low.abs(), high.abs())
        if not bool(torch.isfinite(peak).all()):
            raise FloatingPointError(
                f"prune(): table {table.field!r} holds NaN or infinity, so nothing was cut; "
                "repair its rows, or go back to a checkpoint from before"
            )
        peaks.append(peak)
    return peaks


def _whole(table: Table) -> Selection:
    return Selection.columns(torch.arange(table.width))


def _take_off(tables: Sequence[Table]) -> tuple[list[Gate | None], list[list[Tensor]]]:
    """Remove the gates: per table its gate, and per module its counted lookups."""
    gates: list[Gate | None] = []
    lookups: list[list[Tensor]] = []
    for table in tables:
        gated = hasattr(table.modules[0], "gate")
        gates.append(gate_of(table) if gated else None)
        lookups.append([module.counts for module in table.modules] if gated else [])
        if gated:
            remove(table)
    return gates, lookups


def _put_back(tables: Sequence[Table], gates: Sequence[Gate | None], lookups: Sequence[list[Tensor]]) -> None:
    for table, gate, counts in zip(tables, gates, lookups, strict=True):
        if gate is not None:
            install(table, gate)
            for module, count in zip(table.modules, counts, strict=True):
                module.counts = count


def _own(model: nn.Module, table: Table, optimizer: OptimizerLike | None) -> None:
    """A table that a tied output head shares gets a tensor of its own: the head keeps the ungated one."""
    if not untie(model, table.modules):
        return
    every = torch.arange(table.width, device=table.weight.device)
    weight = narrow_parameter(table.weight, every, unwrap_optimizers(optimizer), keep_old=True)
    for module in table.modules:
        module.weight = weight
