"""Budgets in bytes of tables that will be quantised: rows have a scale and a bias, so a first column costs most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tamis.pruners.surgery.packing import check_stored, row_bytes
from tamis.pruners.tables import Table

__all__ = ["split_by_prices", "stored_prices"]


def stored_prices(tables: Sequence[Table], stored: str) -> list[Tensor]:
    """What each table takes with 0, 1, ... d columns, in bytes: as ``stored``, or in float where that is smaller.

    Args:
        tables: of widths d.
        stored: ``int8``, ``int4`` or ``int2``.

    Returns:
        float64 [d + 1] per table.
    """
    bits = check_stored("quantize", stored)
    prices = []
    for table in tables:
        size = table.weight.element_size()
        row = [min(kept * size, row_bytes(kept, bits)) for kept in range(table.width + 1)]
        prices.append(torch.tensor(row, dtype=torch.float64) * table.rows)
    return prices


def split_by_prices(scores: Sequence[Tensor], prices: Sequence[Tensor], budget: float) -> list[Tensor]:
    """Which columns to keep: again and again the best score per byte that still fits, one or more columns of a table.

    Several at once, because the second column of a table can cost less than the first.

    Args:
        scores: [d] per table, >= 0; minus infinity for a column that may not be kept.
        prices: [d + 1] per table, not decreasing: what 0, 1, ... d columns cost.
        budget: at most this much is spent.

    Returns:
        bool [d] per table.
    """
    width = max(len(score) for score in scores)
    worth, cost = (np.full((len(scores), width + 1), fill) for fill in (-np.inf, np.inf))
    orders = [torch.argsort(score, descending=True, stable=True) for score in scores]
    for number, (score, order, price) in enumerate(zip(scores, orders, prices, strict=True)):
        worth[number, 0] = 0.0
        worth[number, 1 : len(score) + 1] = score[order].double().cumsum(0).cpu().numpy()
        cost[number, : len(price)] = price.numpy()
    taken, every = np.zeros(len(scores), dtype=np.int64), np.arange(len(scores))
    left, column = budget * (1 + 1e-9), np.arange(width + 1)
    while True:
        gain = worth - worth[every, taken][:, None]
        more = cost - cost[every, taken][:, None]
        possible = (column > taken[:, None]) & (more <= left) & (gain >= 0)
        if not possible.any():
            break
        rate = np.where(possible, gain / np.maximum(more, 1e-9), -np.inf)
        table, kept = np.unravel_index(int(rate.argmax()), rate.shape)
        left -= more[table, kept]
        taken[table] = kept
    keeps = [torch.zeros(len(score), dtype=torch.bool) for score in scores]
    for keep, order, count in zip(keeps, orders, taken.tolist(), strict=True):
        keep[order[:count].cpu()] = True
    return keeps
