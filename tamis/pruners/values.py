"""The largest values of many tables, exactly, in flat memory; the gate that holds the others at zero.

Of a float32 the bits without the sign, read as an integer, are in the order of its size. Two passes over the tables
count them: the upper 16 bits, then the lower 16 of the bin in which the last value that is kept lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tamis.pruners.budget import Budget
from tamis.pruners.budgeted import BudgetedPruner
from tamis.pruners.gates import gate_of
from tamis.pruners.selection import Selection
from tamis.pruners.surgery.blocks import index_bytes
from tamis.pruners.tables import Table

__all__ = ["Source", "ValuePruner", "largest_values", "smallest_form", "threshold", "value_budget"]

CHUNK = 2**20  # values looked at in one go


class Source(NamedTuple):
    """Values [rows, width], some rows at a time: ``read(start, stop)`` gives [stop - start, width]."""

    rows: int
    width: int
    read: Callable[[int, int], Tensor]


def _bits(source: Source) -> list[tuple[int, int]]:
    step = max(1, CHUNK // source.width)
    return [(start, min(start + step, source.rows)) for start in range(0, source.rows, step)]


def _size_bits(source: Source, start: int, stop: int) -> Tensor:
    """Integers in the order of |value|, int32 [stop - start, width]."""
    return source.read(start, stop).detach().float().abs().contiguous().view(torch.int32)


def threshold(sources: Sequence[Source], count: int) -> tuple[int, int]:
    """The ``count``-th largest |value|, as the integer of its bits, and how many that equal it are among them.

    Args:
        sources: all values.
        count: in [1, number of values].
    """
    high = low = None
    for upper in (True, False):
        histogram = torch.zeros(2**16, dtype=torch.int64)
        for source in sources:
            for start, stop in _bits(source):
                bits = _size_bits(source, start, stop).reshape(-1)
                digits = bits >> 16 if upper else (bits[bits >> 16 == high] & 0xFFFF)
                histogram += torch.bincount(digits.long(), minlength=2**16).cpu()
        above = histogram.flip(0).cumsum(0).flip(0)  # how many have this digit or a larger one
        digit = int((above >= count).nonzero()[-1, 0])
        count -= int(above[digit] - histogram[digit])
        if upper:
            high = digit
        else:
            low = digit
    assert high is not None and low is not None  # noqa: PT018
    return (high << 16) | low, count


def largest_values(sources: Sequence[Source], count: int) -> list[Tensor]:
    """Which values are the ``count`` largest in size, over all sources; ties by number. Zeros are never among them.

    Args:
        sources: all values.
        count: >= 0; at most all are kept.

    Returns:
        per source bool [rows, width].
    """
    count = min(count, sum(source.rows * source.width for source in sources))
    bits, ties = threshold(sources, count) if count > 0 else (2**31 - 1, 0)
    masks = []
    for source in sources:
        parts = []
        for start, stop in _bits(source):
            found = _size_bits(source, start, stop)
            mask, equal = found > bits, (found == bits) & (found > 0)
            if bool(equal.any()):
                rank = equal.reshape(-1).cumsum(0).reshape(equal.shape)
                mask |= equal & (rank <= ties)
                ties = max(0, ties - int(equal.sum()))
            parts.append(mask)
        masks.append(torch.cat(parts))
    return masks


def value_budget(budget: Budget, tables: Sequence[Table]) -> int:
    """How many values the budget holds, with the column number of each and the place where each row begins.

    Args:
        budget: ``keep`` is a share of all values here.
        tables: all that it is for.

    Raises:
        ValueError: it does not hold its index.
    """
    values = sum(table.rows * table.width for table in tables)
    if budget.keep is not None:
        return max(1, round(budget.keep * values))
    price = max(table.weight.element_size() + (1 if table.width <= 2**8 else 4) for table in tables)
    index = sum(4 * (table.rows + 1) for table in tables)
    total = budget.costs(tables)[1]
    if total < index + price:
        raise ValueError(
            f"{budget}: holds {total:,.0f} bytes, and what says where the rows of single values begin takes {index:,} "
            "of them; give a larger budget, or a pruner of whole columns"
        )
    return min(values, int((total - index) // price))


def smallest_form(kept: Tensor, table: Table) -> Selection:
    """The values that ``kept`` names with their index, or all columns that have any, whichever takes fewer bytes.

    Args:
        kept: bool [n, d].
        table: of n rows.
    """
    single, columns = Selection(mask=kept), Selection.columns(kept.any(0).nonzero()[:, 0])
    size = single.values(table.rows) * table.weight.element_size() + index_bytes(single, *kept.shape)
    return single if size < columns.values(table.rows) * table.weight.element_size() else columns


class ValuePruner(BudgetedPruner):
    """Keeps the single values that are largest in size; the gates have ``kept``, bool [n, d]."""

    def kept(self) -> list[Tensor]:
        """What each table keeps, bool [n, d], held by its gate."""
        gates: list[Any] = [gate_of(table) for table in self.tables]
        return [gate.kept for gate in gates]

    def refuse_sparse(self) -> None:
        """Raise if a table has sparse gradients: single values cannot be trained so after the cut.

        Raises:
            ValueError: names the table.
        """
        sparse = [table.field for table in self.tables if table.modules[0].sparse]
        if sparse:
            raise ValueError(
                f"{type(self).__name__}: table {sparse[0]!r} has sparse=True, and single values have dense gradients "
                "after the cut; build it with sparse=False, or take a pruner of whole columns or rows"
            )
        self.refuse_tied_heads()
        if self.budget is not None:
            value_budget(self.budget, self.tables)

    def sources(self) -> list[Source]:
        """The values that compete, per table; the weights by default."""
        return [
            Source(table.rows, table.width, lambda start, stop, table=table: table.weight[start:stop])  # type: ignore[misc]
            for table in self.tables
        ]

    def decide(self) -> None:
        count = sum(table.rows * table.width for table in self.tables)
        if self.budget is not None:
            count = value_budget(self.budget, self.tables)
        for kept, mask in zip(self.kept(), largest_values(self.sources(), count), strict=True):
            kept.copy_(mask)

    def undo(self) -> None:
        for kept in self.kept():
            kept.fill_(True)

    def spent(self) -> float:
        """In values."""
        return float(sum(int(kept.sum()) for kept in self.kept()))

    def budget_total(self) -> float:
        """In values."""
        return float("inf") if self.budget is None else float(value_budget(self.budget, self.tables))

    def select(self) -> Mapping[str, Selection]:
        self.settle()
        return {t.field: smallest_form(kept.cpu(), t) for t, kept in zip(self.tables, self.kept(), strict=True)}

    def notes(self) -> tuple[str, ...]:
        """Which tables keep their zeros, because that is smaller."""
        pairs = zip(self.tables, self.kept(), strict=True)
        dense = [t.field for t, kept in pairs if smallest_form(kept.cpu(), t).mask is None and not bool(kept.all())]
        words = "columns with zeros inside, which is smaller than single values with their index: "
        return (*((words + ", ".join(dense),) if dense else ()), *super().notes())
