"""The sequence that `cut` and `PruningPlan.apply` share: tables become small but return wide rows; then the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tamis.pruners.selection import Selection
from tamis.pruners.surgery.blocks import split_table
from tamis.pruners.surgery.narrow import narrow_table, return_narrow, slice_linear

__all__ = ["finish", "narrow_tables"]


def narrow_tables(
    model: nn.Module,
    groups: Mapping[str, Sequence[Any]],
    selections: Mapping[str, Selection],
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Cut each table; it goes on returning rows of the old width, so that nothing else has to change yet.

    Args:
        model: holds them.
        groups: path -> the modules that share the table.
        selections: path -> what remains.
        optimizers: whose state is cut with the weights.
    """
    for path, modules in groups.items():
        selection = selections[path]
        if selection.form == "columns":
            narrow_table(model, modules, selection.parts[0].columns, optimizers)
        else:
            split_table(model, modules, selection, optimizers)


def finish(
    model: nn.Module,
    groups: Mapping[str, Sequence[Any]],
    forms: Mapping[str, str],
    columns: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Slice the linear layers that read narrow tables, and bring the tables to their final forms.

    Args:
        model: after `narrow_tables`.
        groups: path -> the modules that share the table.
        forms: path -> ``columns``, ``scatter``, ``project``, ``blocks`` or ``values``.
        columns: path of a linear layer -> [k] int64, the inputs that are left.
        optimizers: whose state is cut with the weights. A projection matrix joins the group of its table.
    """
    for name, index in columns.items():
        slice_linear(model.get_submodule(name), index, optimizers)
    for path, modules in groups.items():
        if forms[path] == "columns":
            for module in modules:
                return_narrow(module)
        elif forms[path] == "project":
            modules[0].add_projection()
            for module in modules[1:]:
                module.projection = modules[0].projection
            if not modules[0].sparse:
                _join_group(optimizers, modules[0])


def _join_group(optimizers: Sequence[torch.optim.Optimizer], table: Any) -> None:
    """Add the table's projection matrix to the group that the table is in."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if any(parameter is table.weight for parameter in group["params"]):
                group["params"].append(table.projection)
