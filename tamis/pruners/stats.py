"""Redundancy of a table's dimensions, over its rows, weighted by how often each row is looked up.

One pass over the table in chunks that fit a core's cache: the columns are shifted by a rough mean first if theirs
could cost digits, each chunk's products are float32 GEMMs, their sums float64. Extra memory: one chunk and d x d.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["correlation", "spectrum", "top_pairs", "weighted_moments"]

CHUNK_ROWS = 1024
SAMPLE_ROWS = 4096


@torch.no_grad()
def weighted_moments(table: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted mean and covariance of a table's columns.

    Args:
        table: [rows, d] floating.
        counts: [rows], >= 0: the rows' weights; None: all equal.

    Returns:
        mean [d] and covariance [d, d], float64; NaN if all weights are 0.
    """
    rows, width = table.shape
    shift = _rough_mean(table)
    first = torch.zeros(width, dtype=torch.float64, device=table.device)
    second, total = torch.outer(first, first), first.sum()
    buffer = torch.empty(min(CHUNK_ROWS, rows), width, dtype=torch.float32, device=table.device)
    ones = torch.ones(len(buffer), dtype=torch.float32, device=table.device)
    for start in range(0, rows, CHUNK_ROWS):
        block = table[start : start + CHUNK_ROWS]
        root = ones[: len(block)]
        if shift is not None or block.dtype != torch.float32:
            block = torch.sub(block, 0.0 if shift is None else shift, out=buffer[: len(block)])
        if counts is not None:
            root = counts[start : start + CHUNK_ROWS].to(torch.float32).sqrt()
            block = torch.mul(block, root[:, None], out=buffer[: len(block)])
        first += root @ block
        second += block.T @ block
        total += len(block) if counts is None else root.double().square().sum()
    first, second = first / total, second / total
    return first + (0.0 if shift is None else shift), second - torch.outer(first, first)


def _rough_mean(table: Tensor) -> Tensor | None:
    """The mean of some rows, [d] float32, or None if no column's mean is large enough to cost digits."""
    sample = table[:: max(1, len(table) // SAMPLE_ROWS)].double()
    mean, deviation = sample.mean(0), sample.std(0, correction=0)
    return None if bool((mean.abs() <= 0.25 * deviation).all()) else mean.to(torch.float32)


def correlation(covariance: Tensor) -> Tensor:
    """Pearson's correlation of every two columns, Eq. (6.9), [d, d] in [-1, 1], from their covariance.

    A column without variance correlates with nothing (0, and 0 on the diagonal).
    """
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    return (covariance * scale[:, None] * scale[None, :]).nan_to_num(0.0).clamp(-1.0, 1.0)


def spectrum(covariance: Tensor, live: Tensor) -> Tensor:
    """Share of the live columns' variance along each of their principal axes, [d], largest first, then zeros.

    It says how many dimensions the table really uses; a table of R rows has at most R - 1 above 0.
    """
    values = torch.linalg.eigvalsh(covariance[live][:, live].nan_to_num(0.0)).flip(0).clamp(min=0)
    shares = torch.zeros_like(covariance[0])
    shares[: len(values)] = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return shares


def top_pairs(correlations: Sequence[Tensor | None], live: Sequence[Tensor], share: float) -> tuple[Tensor, Tensor]:
    """The share beta of all live dimension pairs with the largest |Pearson|, over all tables, Eq. (6.10).

    Args:
        correlations: per table [d, d], or None to leave the table out (its pairs do not count).
        live: per table [d] bool: a pair counts if both its dimensions are live.
        share: beta, in [0, 1].

    Returns:
        pairs [2, p] int64 (positions among the dimensions of all tables in order, first < second) and their
        |Pearson| [p], largest first.
    """
    device = live[0].device
    positions = [torch.zeros(2, 0, dtype=torch.int64, device=device)]
    values = [torch.zeros(0, dtype=torch.float64, device=device)]
    offset = 0
    for matrix, alive in zip(correlations, live, strict=True):
        if matrix is not None:
            kept = alive.nonzero()[:, 0]
            pairs = kept[torch.triu_indices(len(kept), len(kept), offset=1, device=device)]
            positions.append(pairs + offset)
            values.append(matrix[pairs[0], pairs[1]].abs())
        offset += len(alive)
    value = torch.cat(values)
    best = torch.topk(value, round(share * len(value)))
    return torch.cat(positions, dim=1)[:, best.indices], best.values
