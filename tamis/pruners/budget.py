"""What a pruner may keep: a share of the dimensions, a share of the bytes, or a number of bytes; and who gets it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_int, check_range
from tamis.core.errors import NoEffectWarning
from tamis.pruners.tables import Table

__all__ = ["Budget", "budget_at", "check_budget", "check_share", "split_by_budget"]


@dataclass(frozen=True)
class Budget:
    """What may be kept; exactly one of the three is given.

    Attributes:
        keep: share of all (table, dimension) pairs, in (0, 1]: a dimension costs 1 whatever its table's rows.
        size: share of the tables' bytes, in (0, 1].
        bytes: so many bytes, at least those of one dimension of the smallest table.

    Raises:
        TypeError, ValueError: none or several are given, or one out of range.
    """

    keep: float | None = None
    size: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name in ("keep", "size", "bytes") if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            shown = ", ".join(f"{_WORDS.get(name, name)}={value}" for name, value in given.items()) or "nothing"
            raise ValueError(f"{shown}: must not be given both; give exactly one of keep=, size= and budget_bytes=")
        for name in ("keep", "size"):
            if name in given:
                check_share(name, given[name])

    def __str__(self) -> str:
        name, value = next((name, value) for name, value in vars(self).items() if value is not None)
        return f"{_WORDS.get(name, name)}={value:g}" if name != "bytes" else f"budget_bytes={value}"

    def costs(self, tables: Sequence[Table]) -> tuple[list[float], float]:
        """What one dimension of each table costs, and how much may be spent, in the same unit.

        Args:
            tables: all that the budget is for.

        Returns:
            per table the cost of a dimension that all its rows keep (1, or bytes), and the budget.

        Raises:
            TypeError: ``bytes`` is not an int.
            ValueError: it does not hold even one dimension.
        """
        if self.keep is not None:
            dims = sum(table.width for table in tables)
            return [1.0] * len(tables), max(1.0, round(self.keep * dims))
        costs = [float(table.dim_bytes) for table in tables]
        if self.size is not None:
            return costs, self.size * sum(cost * table.width for cost, table in zip(costs, tables, strict=True))
        cheapest = min(tables, key=lambda table: table.dim_bytes)
        try:
            check_int("budget_bytes", self.bytes, low=cheapest.dim_bytes)
        except ValueError as error:
            raise ValueError(f"{error}, the bytes of one dimension of the smallest table, {cheapest.field!r}") from None
        return costs, float(self.bytes or 0)


_WORDS = {"bytes": "budget_bytes"}


def check_budget(
    asked: Budget,
    tables: Sequence[Table],
    costs: Sequence[float],
    budget: float,
    whole: Sequence[float | Tensor] | None = None,
) -> None:
    """Refuse a budget that holds no dimension at all, and warn of one that holds all, or leaves tables without any.

    Args:
        asked: the budget, as errors call it.
        tables: all that it is for.
        costs: per table what one dimension costs.
        budget: in the same unit.
        whole: per table what all of it costs; None: as many times ``costs`` as it has dimensions.

    Raises:
        ValueError: it does not hold one dimension of the cheapest table.

    Warns:
        NoEffectWarning: it holds every dimension.
        UserWarning: it does not hold one dimension of every table.
    """
    cheapest = min(range(len(tables)), key=lambda number: costs[number])
    wide = [cost * table.width for cost, table in zip(costs, tables, strict=True)] if whole is None else whole
    total = float(sum(wide))
    if budget < costs[cheapest] * (1 - 1e-9):
        raise ValueError(
            f"{asked}: holds {budget:,.0f} bytes, less than one dimension of the smallest table, "
            f"{tables[cheapest].field!r} ({costs[cheapest]:,.0f} bytes), so nothing would be left; give more"
        )
    if budget >= total:
        words = f"{asked} holds every dimension, so nothing will be pruned; try size=0.2"
        warnings.warn(words, NoEffectWarning, stacklevel=5)
    elif budget < sum(costs) * (1 - 1e-9):
        enough = f"{'size' if asked.keep is None else 'keep'}={sum(costs) / total:.2g}"
        warnings.warn(
            f"{asked} holds less than one dimension of each of the {len(tables)} tables ({enough} would), so at least "
            "one will keep nothing and read as zeros; give more, or leave tables out with tables=",
            UserWarning,
            stacklevel=5,
        )


def check_share(name: str, share: float) -> float:
    """Return ``share`` if it lies in (0, 1]; to percent, say which share was meant.

    Args:
        name: how errors call it.
        share: what is checked.

    Raises:
        TypeError: not a number.
        ValueError: out of range.
    """
    try:
        return check_range(name, share, low=0, high=1, open_low=True)
    except ValueError as error:
        if 1 < share <= 100:
            raise ValueError(f"{error}, a share; did you mean {share / 100:g}?") from None
        raise


def budget_at(progress: float, target: float, start: float, end: float) -> float:
    """Share of the cost that may be open at ``progress``: 1 until ``start``, cubic down to ``target`` at ``end``.

    The cubic schedule of Zhu and Gupta, "To prune, or not to prune", arXiv:1710.01878.

    Args:
        progress: share of the training that is done, in [0, 1].
        target: what may be open from ``end`` on, in (0, 1].
        start: share of the training, in [0, 1).
        end: share of the training, in (start, 1].
    """
    left = 1.0 - min(max((progress - start) / (end - start), 0.0), 1.0)
    return target + (1.0 - target) * left**3


def split_by_budget(score: Tensor, cost: Tensor, budget: float) -> Tensor:
    """Which gates to keep: the highest score per cost first, as many as the budget holds.

    A gate that does not fit any more is passed over, and cheaper ones behind it still get in.

    Args:
        score: [n], >= 0.
        cost: [n], > 0, float64: what keeping the gate costs (1, or bytes).
        budget: at most this much is kept, in units of ``cost``.

    Returns:
        [n] bool.
    """
    order = torch.argsort(score / cost, descending=True, stable=True)
    keep = torch.zeros_like(score, dtype=torch.bool)
    left = budget * (1 + 1e-9)
    while order.numel():
        order = order[cost[order] <= left]
        fits = cost[order].cumsum(0) <= left
        taken = order[fits]
        keep[taken] = True
        left -= float(cost[taken].sum())
        order = order[~fits]
    return keep
