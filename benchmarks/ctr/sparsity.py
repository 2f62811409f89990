"""Masks over embedding tables, what they cost in bytes, and tables of four-bit numbers.

A group is what shares its columns: a block of rows of like frequency, in one table or over all of them. ``Groups``
hold, per field, the group of every row; a mask is one bool tensor [rows, dim] per field.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarks.ctr.data import CTRData

__all__ = [
    "Hold",
    "block_bytes",
    "column_mask",
    "dense_bytes",
    "frequencies",
    "frequency_blocks",
    "frequency_mask",
    "int4_bytes",
    "kept_share",
    "quantised",
    "random_columns",
    "value_bytes",
    "value_mask",
]

Groups = dict[str, Tensor]  # field -> group of every row, int64 [rows]
Masks = dict[str, Tensor]  # field -> bool [rows, dim]


def frequencies(data: CTRData) -> dict[str, Tensor]:
    """Field -> how often each id occurs in the training part, [rows]."""
    ids = data.train[0]
    return {field: torch.bincount(ids[:, f], minlength=size) for f, (field, size) in enumerate(data.sizes.items())}


def frequency_blocks(data: CTRData, blocks: int, per_table: bool = True) -> Groups:
    """Rows by falling training frequency (ties by id) in ``blocks`` groups of equal count.

    Args:
        data: its training part is counted.
        blocks: groups per table (a table of fewer rows has one per row), or over all tables.
        per_table: else one order over the rows of all tables, and the groups are shared, as in DNIS' paper.

    Returns:
        The groups, numbered from the most frequent on.
    """
    counts = frequencies(data)
    if not per_table:
        ranked = _ranks(torch.cat(list(counts.values())))
        return dict(zip(counts, (ranked * blocks // len(ranked)).split([len(c) for c in counts.values()]), strict=True))
    groups, first = {}, 0
    for field, count in counts.items():
        own = min(blocks, len(count))
        groups[field] = first + _ranks(count) * own // len(count)
        first += own
    return groups


def _ranks(count: Tensor) -> Tensor:
    """Place of every row in the falling order, ties by id."""
    order = torch.argsort(count, descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))


def group_rows(groups: Groups) -> Tensor:
    """Rows of every group, [groups]."""
    return torch.bincount(torch.cat(list(groups.values())))


def kept_share(masks: Masks) -> float:
    """Kept embedding numbers, of all."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def value_mask(scores: dict[str, Tensor], share: float) -> Masks:
    """The ``share`` of all values with the largest score ([rows, dim] per field), over all tables together."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.topk(int(share * len(flat))).indices] = True
    parts = kept.split([score.numel() for score in scores.values()])
    return {field: part.view_as(scores[field]) for field, part in zip(scores, parts, strict=True)}


def column_mask(groups: Groups, scores: Tensor, share: float) -> Masks:
    """The columns of groups with the largest ``scores`` ([groups, dim]) whose values fit ``share`` of all.

    Greedy: a column that no longer fits is passed over for smaller ones.
    """
    rows, dim = group_rows(groups), scores.shape[1]
    left, kept = int(share * int(rows.sum()) * dim), torch.zeros(scores.numel(), dtype=torch.bool)
    for place in scores.flatten().argsort(descending=True).tolist():
        if (cost := int(rows[place // dim])) <= left:
            kept[place], left = True, left - cost
    kept = kept.view_as(scores)
    return {field: kept[group] for field, group in groups.items()}


def random_columns(groups: Groups, counts: Tensor, dim: int, seed: int) -> Masks:
    """``counts`` ([groups]) columns of every group, drawn at random."""
    order = torch.rand(len(counts), dim, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    kept = order.argsort(dim=1) < counts[:, None]
    return {field: kept[group] for field, group in groups.items()}


def frequency_mask(data: CTRData, groups: Groups, dim: int, share: float, power: float) -> Masks:
    """The first d columns of every group, d proportional to its mean frequency ** ``power`` (MDE's rule).

    After Ginart et al., arXiv:1909.11810, with zeros in place of projections. Widths are rounded down, at most
    ``dim``; what is left goes, one column each, to the groups with the largest rest.
    """
    rows, counts = group_rows(groups).double(), torch.cat(list(frequencies(data).values())).double()
    total = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, torch.cat(list(groups.values())), counts)
    weight, budget = (total / rows).clamp(min=0.5) ** power, share * float(rows.sum()) * dim
    low, high = 0.0, dim / float(weight.min())
    for _ in range(60):
        middle = (low + high) / 2
        fits = float(((middle * weight).clamp(max=dim) * rows).sum()) <= budget
        low, high = (middle, high) if fits else (low, middle)
    exact = (low * weight).clamp(max=dim)
    widths = exact.floor()
    for group in (exact - widths).argsort(descending=True).tolist():
        if widths[group] < dim and float((widths * rows).sum() + rows[group]) <= budget:
            widths[group] += 1
    kept = torch.arange(dim) < widths[:, None]
    return {field: kept[group] for field, group in groups.items()}


class Hold:
    """Keeps masked values at zero; goes along in `benchmarks.ctr.training.train` as its ``pruner``."""

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self.pairs = [(model.embeddings[field].weight, mask.float()) for field, mask in masks.items()]
        self.step()

    def penalty(self) -> float:
        return 0.0

    @torch.no_grad()
    def step(self) -> None:
        for weight, mask in self.pairs:
            weight.mul_(mask)


def dense_bytes(rows: int, dim: int) -> int:
    """A table of 32-bit numbers."""
    return 4 * rows * dim


def value_bytes(masks: Masks) -> dict[str, int]:
    """An unstructured table as COO (two int32 and the value), as CSR, and as a bitmap before each row's values."""
    kept, rows = sum(int(m.sum()) for m in masks.values()), sum(len(m) for m in masks.values())
    dim = next(iter(masks.values())).shape[1]
    return {"COO": 12 * kept, "CSR": 8 * kept + 4 * (rows + len(masks)), "bitmap": 4 * kept + math.ceil(dim / 8) * rows}


def block_bytes(masks: Masks, groups: Groups) -> int:
    """Columns per group: the values, an int32 a row for its place in its group, an int32 per kept column."""
    columns = 0
    for field, group in groups.items():
        first = {int(g): row for row, g in enumerate(group.tolist())}
        columns += sum(int(masks[field][row].sum()) for row in first.values())
    kept, rows = sum(int(m.sum()) for m in masks.values()), sum(len(m) for m in masks.values())
    return 4 * kept + 4 * rows + 4 * columns


def int4_bytes(rows: int, dim: int) -> int:
    """Half a byte a number; a 16-bit scale and offset a row."""
    return rows * (math.ceil(dim / 2) + 4)


def quantised(weight: Tensor) -> Tensor:
    """``weight`` after rounding to 16 levels a row, scale and offset in 16 bits."""
    low = weight.min(dim=1, keepdim=True).values.half().float()
    scale = ((weight.max(dim=1, keepdim=True).values - low) / 15).half().float().clamp(min=1e-7)
    return low + scale * ((weight - low) / scale).round().clamp(0, 15)
