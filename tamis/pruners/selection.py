"""What remains of a table: the same columns for every row, other columns for each block of rows, or single values.

A `Selection` says it without a model; `Pruner.select` gives one per table, `cut` carries them out, and a
`PruningPlan` stores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Part", "Selection", "check_index"]


class Part(NamedTuple):
    """Some rows of a table and the columns that they keep.

    Attributes:
        rows: [r] int64, sorted, without repeats; None: all rows.
        columns: [k] int64, sorted, without repeats; k = 0 is allowed.
    """

    rows: Tensor | None
    columns: Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """What remains of one table [n, d]; whatever it does not name reads as zero.

    Attributes:
        parts: disjoint sets of rows with their columns (structured). Rows in no part keep nothing.
        mask: bool [n, d], the values that remain (unstructured); excludes ``parts``.
    """

    parts: tuple[Part, ...] = ()
    mask: Tensor | None = None

    @classmethod
    def columns(cls, columns: Tensor) -> Selection:
        """Every row keeps ``columns``, [k] int64, sorted."""
        return cls(parts=(Part(None, columns.detach().cpu()),))

    @classmethod
    def blocks(cls, block: Tensor, kept: Tensor) -> Selection:
        """Row r keeps the columns of its block; blocks that keep the same columns become one part.

        Args:
            block: [n] integers in [0, L): the block of each row.
            kept: bool [L, d]: the columns that each block keeps.
        """
        block, kept = block.detach().cpu().long(), kept.detach().cpu()
        patterns, pattern = torch.unique(kept, dim=0, return_inverse=True)
        of_row = pattern[block]
        groups = rows_by_number(of_row, len(patterns))
        present = [number for number, rows in enumerate(groups) if len(rows)]
        if len(present) == 1:
            return cls.columns(patterns[present[0]].nonzero()[:, 0])
        filled = patterns.any(1).tolist()
        return cls(
            parts=tuple(Part(groups[number], patterns[number].nonzero()[:, 0]) for number in present if filled[number])
        )

    @property
    def form(self) -> str:
        """``columns``, ``blocks`` or ``values``."""
        if self.mask is not None:
            return "values"
        return "columns" if len(self.parts) == 1 and self.parts[0].rows is None else "blocks"

    def check(self, name: str, rows: int, width: int) -> None:
        """Refuse a selection that does not fit a table [rows, width].

        Args:
            name: how errors call it.
            rows: n >= 1.
            width: d >= 1.

        Raises:
            TypeError: an index is not int64, the mask not bool.
            ValueError: an index out of range or order, rows in two parts, a mask of another shape, or both given.
        """
        if self.mask is not None:
            if self.parts:
                raise ValueError(f"{name}: has parts and a mask; give one of them")
            if self.mask.dtype != torch.bool:
                raise TypeError(f"{name}.mask: must be bool, got {self.mask.dtype}")
            if tuple(self.mask.shape) != (rows, width):
                raise ValueError(
                    f"{name}.mask: must have the table's shape {[rows, width]}, got {list(self.mask.shape)}"
                )
            return
        taken = torch.zeros(rows, dtype=torch.bool)
        for number, part in enumerate(self.parts):
            check_index(f"{name}.parts[{number}].columns", part.columns, width)
            if part.rows is not None:
                check_index(f"{name}.parts[{number}].rows", part.rows, rows)
            index = slice(None) if part.rows is None else part.rows
            if bool(taken[index].any()):
                raise ValueError(f"{name}.parts[{number}]: holds rows of an earlier part; each row may be in one part")
            taken[index] = True

    def as_mask(self, rows: int, width: int) -> Tensor:
        """The values that remain, bool [rows, width]: large, for tests and small tables."""
        if self.mask is not None:
            return self.mask
        mask = torch.zeros(rows, width, dtype=torch.bool)
        for part in self.parts:
            index = torch.arange(rows) if part.rows is None else part.rows
            mask[index[:, None], part.columns[None, :]] = True
        return mask

    def values(self, rows: int) -> int:
        """How many values remain of a table with that many rows."""
        if self.mask is not None:
            return int(self.mask.sum())
        return sum((rows if part.rows is None else len(part.rows)) * len(part.columns) for part in self.parts)

    def is_whole(self, rows: int, width: int) -> bool:
        """True if every value of a table [rows, width] remains."""
        return self.values(rows) == rows * width

    def largest_removed(self, weight: Tensor) -> float:
        """Largest |value| of ``weight`` [n, d] that does not remain; 0 if all do. Block by block, no copy of it all."""
        if self.mask is not None:
            return _peak(weight[~self.mask.to(weight.device)])
        largest, seen = 0.0, torch.zeros(len(weight), dtype=torch.bool)
        for part in self.parts:
            gone = _others(part.columns, weight.shape[1]).to(weight.device)
            if not len(gone):
                seen[slice(None) if part.rows is None else part.rows] = True
                continue
            rows = weight.detach() if part.rows is None else weight.detach()[part.rows.to(weight.device)]
            low, high = torch.aminmax(rows, dim=0)
            largest = max(largest, float(torch.maximum(-low, high)[gone].max()))
            seen[slice(None) if part.rows is None else part.rows] = True
        return max(largest, _peak(weight[~seen.to(weight.device)]))


def _others(columns: Tensor, width: int) -> Tensor:
    left = torch.ones(width, dtype=torch.bool)
    left[columns] = False
    return left.nonzero()[:, 0]


def _peak(values: Tensor) -> float:
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values.detach())
    return max(-float(low), float(high))


def check_index(name: str, index: object, size: int) -> None:
    """Refuse an index set that is not an int64 tensor [k], sorted, without repeats, in [0, size).

    Args:
        name: how errors call it.
        index: what is checked.
        size: bound of its entries.

    Raises:
        TypeError: not an int64 tensor.
        ValueError: its shape, order or range.
    """
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise TypeError(f"{name}: must be an int64 tensor, got {getattr(index, 'dtype', type(index).__name__)}")
    if index.dim() != 1 or bool((index.diff() <= 0).any()):
        raise ValueError(f"{name}={index.tolist()}: must be one-dimensional, sorted and without repeats")
    if len(index) and not 0 <= int(index[0]) <= int(index[-1]) < size:
        raise ValueError(f"{name}={index.tolist()}: must lie in [0, {size})")


def as_selection(name: str, kept: object) -> Selection:
    """``kept`` itself, or the selection of these columns.

    Args:
        name: how errors call it.
        kept: a `Selection`, or [k] int64.

    Raises:
        TypeError: neither.
    """
    if isinstance(kept, Selection):
        return kept
    if not isinstance(kept, Tensor):
        raise TypeError(f"{name}: must be an int64 tensor, got {type(kept).__name__}, or a Selection")
    return Selection.columns(kept)


def rows_by_number(numbers: Tensor, count: int) -> list[Tensor]:
    """The places of 0, 1, ... ``count`` - 1 in ``numbers`` [n], each int64 and sorted; other numbers count nowhere."""
    order = torch.argsort(numbers, stable=True)
    found = torch.bincount(numbers.long().clamp(-1, count) + 1, minlength=count + 2)
    return list(torch.split(order, found.tolist()))[1 : count + 1]


def union_of_columns(parts: Sequence[Part]) -> Tensor:
    """The columns that any part keeps, [k] int64, sorted."""
    found = [part.columns for part in parts]
    return torch.unique(torch.cat(found)) if found else torch.zeros(0, dtype=torch.int64)
