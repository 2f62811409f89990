"""Turn tables to their common principal axes, where a model allows it: dot products of rows leave the axes free.

Ours, not the paper's. Where embeddings meet in dot products only (matrix factorisation, FM), any rotation of all
tables together computes the same, so each row spreads over all columns and no column is worth less than another.
Turned to the principal axes, the first columns hold most. Whether the model allows it is not guessed: the loss of a
validation batch must stay what it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tamis.core.distributed import all_mean_, broadcast_object
from tamis.pruners.base import Loss
from tamis.pruners.tables import Table

__all__ = ["principal_axes", "turn_tables"]

SMALL = 1e-3  # the change of the loss may be this share of what the tables change it by


def principal_axes(weights: Sequence[Tensor]) -> Tensor:
    """The rotation to the principal axes of the sum over tables of their mean outer products, [K, K].

    Args:
        weights: [n, K] each.

    Returns:
        Columns are axes, the one with the most energy first; float64.
    """
    products = [weight.detach().double().T @ weight.detach().double() / len(weight) for weight in weights]
    axes: Tensor = torch.linalg.eigh(torch.stack(products).sum(0)).eigenvectors
    return axes.flip(1)


@torch.no_grad()
def turn_tables(tables: Sequence[Table], loss: Loss) -> str:
    """Turn all tables by one rotation if that leaves the loss as it is; else nothing is changed.

    What reads the tables and is not part of the loss is not seen: leave the tables as they are then (``axes=False``).
    Every rank must call it. For the time of the call the tables are held twice.

    Args:
        tables: gated or not.
        loss: of one batch, the same at each call.

    Returns:
        ``turned``, or why not: ``loss`` (it changed, or the tables do not count in it), ``widths`` or ``frozen``.
    """
    if len({table.width for table in tables}) > 1:
        return "widths"
    if not all(table.weight.requires_grad for table in tables):
        return "frozen"
    weights = [table.weight for table in tables]
    kept = [weight.detach().clone() for weight in weights]
    before = loss().detach().double()
    axes = broadcast_object(principal_axes(weights).cpu())
    for weight, old in zip(weights, kept, strict=True):
        weight.copy_((old.double() @ axes.to(old.device)).to(old.dtype))
    change = (loss().detach().double() - before).abs()
    turned = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.zero_()
    effect = (loss().detach().double() - before).abs()
    change, effect = all_mean_(torch.stack([change, effect])).unbind()
    allowed = bool((effect > 0) & (change <= SMALL * effect))
    for weight, value in zip(weights, turned if allowed else kept, strict=True):
        weight.copy_(value)
    return "turned" if allowed else "loss"
