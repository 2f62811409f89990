"""The few collectives tamis needs. Each is the identity in one process; every rank must call each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = [
    "all_gather_ids",
    "all_mean_",
    "all_sum_",
    "broadcast_object",
    "gather_objects",
    "is_distributed",
    "parallel_map",
    "rank",
    "rank_stretch",
    "world_size",
]

Item = TypeVar("Item")
Result = TypeVar("Result")


def is_distributed() -> bool:
    """True if a process group with more than one process is up."""
    return world_size() > 1


def world_size() -> int:
    """Number of processes (1 if no process group is initialised)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process' rank (0 if no process group is initialised)."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def rank_stretch(count: int, *, block: int = 1) -> range:
    """This rank's stretch of ``count`` items: the ranks' stretches are in order, disjoint, and together all items.

    Args:
        count: number of items, >= 0.
        block: items that stay together, >= 1, e.g. the batch size where the last bits of a result depend on its batch.
    """
    blocks = -(-count // block)
    low, high = (min(blocks * r // world_size() * block, count) for r in (rank(), rank() + 1))
    return range(low, high)


def all_sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Sum ``tensor`` over ranks in place and return it."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def all_mean_(tensor: torch.Tensor) -> torch.Tensor:
    """Average ``tensor`` (floating) over ranks in place and return it."""
    return all_sum_(tensor).div_(world_size()) if is_distributed() else tensor


def all_gather_ids(ids: torch.Tensor) -> torch.Tensor:
    """Every rank's ``ids``, one after the other in rank order, on every rank.

    Args:
        ids: [n], integers; each rank may have another n.
    """
    if not is_distributed():
        return ids
    length = torch.tensor([len(ids)], device=ids.device)
    lengths = [torch.zeros_like(length) for _ in range(world_size())]
    dist.all_gather(lengths, length)
    longest = max(int(each) for each in lengths)
    padded = torch.cat([ids, ids.new_zeros(longest - len(ids))])
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(each)] for part, each in zip(parts, lengths, strict=True)])


def gather_objects(value: Result) -> list[Result]:
    """The list of every rank's ``value``, in rank order, on every rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Result, source: int = 0) -> Result:
    """Rank ``source``'s ``value``, on every rank.

    Args:
        value: any object that can be pickled; only that of ``source`` is used.
        source: the rank that sends, in [0, world size).
    """
    if not is_distributed():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=source)
    received: Result = box[0]
    return received


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``[function(item) for item in items]``, spread over the ranks; the same list on every rank.

    Items are dealt dynamically (a counter in the process group's store), because trials differ in cost. A
    rank's exception does not leave the others waiting: it is carried to all and raised on all.

    Args:
        function: must give the same result for an item whichever rank runs it.
        items: the same sequence on every rank.

    Raises:
        RuntimeError: ``function`` raised on some rank; the message holds rank, item number and error.
    """
    if not is_distributed():
        return [function(item) for item in items]
    mine: list[tuple[int, Any, str | None]] = []
    for number in _deal(len(items)):
        try:
            mine.append((number, function(items[number]), None))
        except Exception as error:
            mine.append((number, None, f"rank {rank()}, item {number}: {type(error).__name__}: {error}"))
            break
    done = sorted((row for rows in gather_objects(mine) for row in rows), key=lambda row: row[0])
    errors = [row[2] for row in done if row[2] is not None]
    if errors:
        raise RuntimeError("parallel_map: " + "; ".join(errors))
    return [row[1] for row in done]


_calls = 0  # collective call counter, the same on every rank: names the store's key of each map


def _deal(count: int) -> Iterator[int]:
    """Item numbers for this rank, taken one at a time from a counter shared by all ranks.

    The store is the user's, so its timeout is left alone: adding to a counter waits for nobody.
    """
    global _calls
    _calls += 1
    store = dist.distributed_c10d._get_default_store()
    key = f"tamis/map/{_calls}"
    while (number := store.add(key, 1) - 1) < count:
        yield number
