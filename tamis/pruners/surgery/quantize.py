"""`quantize_embeddings`: the tables of a trained model, cut or never cut, as int8, int4 or int2.

Row-wise rounding after training. The plan in the model says which tables are stored how, so that `load_pruned` reads
the model back from whatever saved its weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tamis.core.errors import NoEffectWarning
from tamis.core.types import OptimizerLike
from tamis.pruners.selection import Selection
from tamis.pruners.surgery.held import held_in_lists, warn_of_old
from tamis.pruners.surgery.narrow import embedding_modules, used_elsewhere
from tamis.pruners.surgery.packing import check_stored
from tamis.pruners.surgery.plan import BUFFER, PruningPlan, TableCut
from tamis.pruners.surgery.quantized import Quantized
from tamis.pruners.surgery.store import check_storable, store_tables, tensors_of
from tamis.pruners.surgery.transplant import unwrap_optimizers

__all__ = ["quantize_embeddings", "refuse_trained"]


@torch.no_grad()
def quantize_embeddings(
    model: nn.Module,
    stored: str = "int4",
    *,
    tables: Sequence[str] | None = None,
    optimizer: OptimizerLike | None = None,
) -> PruningPlan:
    """Store the embedding tables of a trained ``model`` as ``stored``, in place: a scale and a bias per row.

    A row of k numbers takes k + 8 bytes as int8, k / 2 + 4 as int4 and k / 4 + 4 as int2. A table that would not get
    smaller (of one column, say) stays as it is. What is looked up has the dtype that the table had. The tables cannot
    be trained any more; the other layers can, after ``requires_grad_(False)`` on each table.

    Args:
        model: never cut, or cut by a pruner, by `cut` or by `load_pruned`; not wrapped for data-parallel training.
        stored: ``int8``, ``int4`` or ``int2``.
        tables: module paths of the tables; None: all that get smaller. Modules that share a table go together.
        optimizer: the optimizer (or several) of the training that is over; given, it is checked that it does not
            hold a table that is to be quantised.

    Returns:
        The plan: of a cut model its own with `PruningPlan.stored`, else a plan that cuts nothing. It is stored in the
        model, as `cut` stores it.

    Raises:
        TypeError: a path is not a table, or a table has a forward of its own.
        ValueError: the tables are quantised already, or one is still in ``optimizer``, or has ``max_norm``, or holds
            numbers beyond 65504 (int4 and int2). Nothing is changed.
        FloatingPointError: a table holds NaN or infinity. Nothing is changed.

    Warns:
        NoEffectWarning: no table gets smaller.
        UserWarning: a table is also an output head's, which keeps its float tensor; or a list of the model goes on
            holding a float table.
    """
    check_stored("quantize", stored)
    groups = _groups(model, tables)
    old = _plan_of(model)
    plan = _describe(old, groups, model)
    chosen = {path: stored for path in groups if _gets_smaller(plan, path, stored)}
    for path in chosen:
        check_storable(path, groups[path][0], stored)
    refuse_trained({path: groups[path] for path in chosen}, optimizer, stored)
    if not chosen:
        warnings.warn(
            f"quantize={stored!r}: no table gets smaller by it ({', '.join(groups)}); nothing was quantised",
            NoEffectWarning,
            stacklevel=2,
        )
    _warn_of_tied_heads(model, {path: groups[path] for path in chosen if plan.tables[path].form == "whole"}, stored)
    held = held_in_lists(model)
    store_tables(model, groups, chosen)
    warn_of_old(model, held, "quantising replaced: they stay in memory; take them out of there")
    plan = replace(plan, stored={**plan.stored, **chosen})
    plan.write_into(model)
    return plan


def _warn_of_tied_heads(model: nn.Module, groups: dict[str, list[Any]], stored: str) -> None:
    if tied := [path for path, modules in groups.items() if used_elsewhere(model, modules)]:
        warnings.warn(
            f"quantize={stored!r}: {', '.join(tied)} is shared with another layer (a tied head), which keeps its float "
            "tensor: both are stored now",
            stacklevel=3,
        )


def refuse_trained(groups: dict[str, list[Any]], optimizer: OptimizerLike | None, stored: str) -> None:
    """Refuse an optimizer that holds a table which is to be quantised; nothing is changed.

    Raises:
        ValueError: names the table.
    """
    for each in unwrap_optimizers(optimizer):
        held = {id(parameter) for group in each.param_groups for parameter in group["params"]}
        for path, modules in groups.items():
            if any(id(tensor) in held for tensor in tensors_of(modules[0])):
                raise ValueError(
                    f"optimizer={type(each).__name__}: trains the table {path!r}, which as {stored} cannot be trained; "
                    "quantise when the training is over, and leave optimizer out"
                )


def _groups(model: nn.Module, tables: Sequence[str] | None) -> dict[str, list[Any]]:
    """Path -> the modules that share that table, each table once."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: must be a model, an nn.Module")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise TypeError(f"model={type(model).__name__}: must be the model inside; quantize_embeddings(model.module)")
    found = embedding_modules(model)
    floats = [path for path, module in found.items() if not isinstance(module, Quantized)]
    if tables is None:
        if not floats:
            why = "stored as integers already" if found else "none"
            raise ValueError(f"model={type(model).__name__}: must have float embedding tables; its tables are {why}")
        tables = floats
    if isinstance(tables, str) or not tables:
        raise TypeError(f"tables={tables!r}: must be a list of module paths, or None; the model has {', '.join(found)}")
    groups: dict[str, list[Any]] = {}
    owners: dict[int, str] = {}
    for path in tables:
        module: Any = found.get(path)
        if module is None:
            raise TypeError(f"tables: {path!r} is not an embedding of the model; it has {', '.join(found) or 'none'}")
        if isinstance(module, Quantized):
            raise ValueError(f"tables: {path!r} is stored as {module.stored} already")
        key = _key(module)
        if owners.setdefault(key, path) != path:
            continue
        sharing = {id(m): m for m in found.values() if not isinstance(m, Quantized) and _key(m) == key}
        groups[path] = sorted(sharing.values(), key=lambda each: each is not found[path])
    return groups


def _key(module: Any) -> int:
    """The same for modules that share a table."""
    tensors = tensors_of(module)
    return id(tensors[0]) if tensors else id(module)


def _plan_of(model: nn.Module) -> PruningPlan | None:
    """The plan inside the model, if it was cut.

    Raises:
        ValueError: only a part of it was cut.
    """
    for path, module in model.named_modules():
        if path and BUFFER in module._buffers:
            raise ValueError(f"model: its part {path!r} was cut on its own; quantize_embeddings(model.{path})")
    buffer: Any = model._buffers.get(BUFFER)
    return None if buffer is None else PruningPlan.read_from(buffer)


def _describe(old: PruningPlan | None, groups: dict[str, list[Any]], model: nn.Module) -> PruningPlan:
    """The plan with every table of ``groups`` in it."""
    plan = old or PruningPlan(tables={}, kept={}, consumers={}, columns={})
    alias = {other: path for path, table in plan.tables.items() for other in table.tied}
    paths = {id(module): path for path, module in reversed(embedding_modules(model).items())}
    tables, kept = dict(plan.tables), dict(plan.kept)
    for path in list(groups):
        if path in alias:  # the plan has the table under another of its paths
            groups[alias[path]] = [model.get_submodule(name) for name in (alias[path], *tables[alias[path]].tied)]
            del groups[path]
        elif path not in tables:
            weight = groups[path][0].weight
            rows, dim = weight.shape
            tied = tuple(paths[id(module)] for module in groups[path][1:])
            tables[path] = TableCut(rows=rows, dim=dim, itemsize=weight.element_size(), form="whole", tied=tied)
            kept[path] = Selection.columns(torch.arange(dim)).parts[0].columns
    return replace(plan, tables=tables, kept=kept)


def _gets_smaller(plan: PruningPlan, path: str, stored: str) -> bool:
    return replace(plan, stored={**plan.stored, path: stored}).bytes_after(path) < plan.bytes_pruned(path)
