"""How often rows are looked up: counted on looked-up rows only, and rows drawn in proportion to the counts.

No step touches a whole table: what a step costs depends on its batch, not on the tables' rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tamis.core.distributed import all_gather_ids

__all__ = ["Lookups", "add_counts_", "draw_rows"]


class Lookups:
    """The ids that this rank looked up since the last `take`; it grows with the distinct ids, not with the calls."""

    LOOSE = 32  # calls after which the ids are counted together

    def __init__(self) -> None:
        self._loose: list[Tensor] = []
        self._counted: tuple[Tensor, Tensor] | None = None

    def add(self, ids: Tensor) -> None:
        """Note a lookup of ``ids``, any shape, int64 or int32."""
        self._loose.append(ids.detach().reshape(-1).long().clone())
        if len(self._loose) >= self.LOOSE:
            self._count()

    def take(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The distinct ids and how often each was looked up, both int64 [u], on ``device``; forgets them."""
        self._count()
        empty = torch.zeros(0, dtype=torch.int64)
        ids, times = self._counted or (empty, empty)
        self._counted = None
        return ids.to(device), times.to(device)

    def _count(self) -> None:
        if not self._loose:
            return
        every, times = torch.cat(self._loose), None
        self._loose = []
        if self._counted is not None:
            times = torch.cat([self._counted[1], torch.ones_like(every)])
            every = torch.cat([self._counted[0], every])
        self._counted = _distinct(every, times)


def _distinct(ids: Tensor, times: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each id once, and the sum of its ``times`` (1 each if None)."""
    if times is None:
        distinct, counted = torch.unique(ids, return_counts=True)
        return distinct, counted
    distinct, place = torch.unique(ids, return_inverse=True)
    return distinct, torch.zeros_like(distinct).index_add_(0, place, times)


def add_counts_(counts: Tensor, lookups: Lookups) -> None:
    """Add what all ranks looked up to ``counts``, in place: the same numbers on every rank; they stop at the largest.

    Args:
        counts: [rows] int32.
        lookups: this rank's; emptied.
    """
    ids, times = lookups.take(counts.device)
    ids, times = _distinct(all_gather_ids(ids), all_gather_ids(times))
    largest = torch.iinfo(counts.dtype).max
    counts[ids] = (counts[ids].long() + times).clamp(max=largest).to(counts.dtype)


def draw_rows(counts: Tensor | None, rows: int, number: int) -> Tensor:
    """``number`` of ``rows`` row numbers, in proportion to ``counts``, evenly spaced on their running sum: [number].

    Every draw is the same, so that a resumed training looks at the same rows. A row that holds a share s of the
    counts is drawn s x ``number`` times, rounded up or down. The mean of anything over the drawn rows estimates its
    weighted mean over all rows with a relative error of about sqrt(2 / number) for a column's variance.

    Args:
        counts: [rows], >= 0, not all 0; None: all equal.
        rows: of the table.
        number: >= 1.
    """
    if counts is None:
        return torch.arange(number) * rows // number
    total = counts.double().cumsum(0)
    places = (torch.arange(number, dtype=torch.float64, device=counts.device) + 0.5) * (total[-1] / number)
    return torch.searchsorted(total, places).clamp(max=rows - 1)
