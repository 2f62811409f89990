"""What rows of tables cost, and pruners that keep rows: their index is part of the budget."""

from __future__ import annotations

from collections.abc import Sequence

from tamis.pruners.budget import Budget
from tamis.pruners.tables import Table

__all__ = ["index_cost", "row_costs"]


def row_costs(budget: Budget, tables: Sequence[Table]) -> list[float]:
    """What one dimension of one row of each table costs, in the budget's unit.

    Args:
        budget: in pairs or bytes.
        tables: all that it is for.
    """
    return [cost / table.rows for cost, table in zip(budget.costs(tables)[0], tables, strict=True)]


def index_cost(budget: Budget, tables: Sequence[Table]) -> float:
    """Bytes that say where each row stands: 4 a row, 1 in tables below 257 rows; 0 for a budget in pairs.

    Args:
        budget: in pairs or bytes.
        tables: all that it is for.

    Raises:
        ValueError: the budget does not hold it.
    """
    if budget.keep is not None:
        return 0.0
    index = float(sum((1 if table.rows <= 2**8 else 4) * table.rows for table in tables))
    total = budget.costs(tables)[1]
    if total <= index:
        raise ValueError(
            f"{budget}: holds {total:,.0f} bytes, and what says where the rows stand takes {index:,.0f} of them; "
            "give a larger budget, or a pruner of whole columns"
        )
    return index
