"""How a loader deals a sampler's global order out to the ranks, and the rest of an epoch from any position of it.

A *position* counts indices of the global order, over all ranks. It means the same whatever the batch size and the
number of processes, so that a run may go on with others: the order goes on, it is only dealt out differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, cycle, islice, repeat
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, Sampler

__all__ = [
    "Dealing",
    "RestOfEpoch",
    "batch_samplers",
    "innermost_sampler",
    "put_sampler",
    "restart_workers",
    "tell_epoch",
]


def batch_samplers(loader: DataLoader[Any]) -> list[Any]:
    """The batch sampler of a `DataLoader` and those that it wraps, the innermost one last."""
    found: list[Any] = [loader.batch_sampler]
    while hasattr(found[-1], "batch_sampler"):
        found.append(found[-1].batch_sampler)
    return found


def innermost_sampler(loader: DataLoader[Any]) -> Any:
    """The index sampler of a `DataLoader`, under whatever wrappers accelerate put around its batch sampler."""
    inner = batch_samplers(loader)[-1]
    return getattr(inner, "sampler", inner)


def put_sampler(loader: DataLoader[Any], sampler: Sampler[int]) -> None:
    """Have ``loader`` draw from ``sampler`` from its next iteration on, prepared by accelerate or not.

    Args:
        loader: any loader with a batch sampler.
        sampler: set in each wrapper too, where accelerate looks for it to tell it the epoch.
    """
    for batches in batch_samplers(loader):
        batches.sampler = sampler


def tell_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Tell a loader's data set the epoch, if it has ``set_epoch``, and have its workers know it.

    Accelerate does not, where it finds a sampler to tell.
    """
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(epoch)
        restart_workers(loader, loader.dataset)


def restart_workers(loader: DataLoader[Any], component: object) -> None:
    """Have ``persistent_workers``, which keep the copy that they began with, begin anew at the next iteration.

    Args:
        loader: as built, or prepared by accelerate.
        component: what has just been told an epoch. Workers stay if it says ``epoch_reaches_workers``, as what keeps
            the epoch in shared memory.
    """
    base: Any = getattr(loader, "base_dataloader", loader)
    if getattr(base, "persistent_workers", False) and not getattr(component, "epoch_reaches_workers", False):
        base._iterator = None


@dataclass(frozen=True)
class Dealing:
    """What one batch of a loader uses up of the global order.

    Attributes:
        batch_size: indices in a batch of the batch sampler.
        step: indices that one batch of the loader uses up, on all ranks together.
        skipped: indices that accelerate's `skip_first_batches` leaves out for each batch. Not ``step`` where rank 0
            dispatches: there it leaves out too few.
        fill: the order is filled up with its first indices to a multiple of this; 1: it is not.
        drop_last: incomplete batches are left out.
        ranks: (rank, number of ranks) where the ranks may have different numbers of batches, else (0, 1).
    """

    batch_size: int
    step: int
    skipped: int
    fill: int = 1
    drop_last: bool = False
    ranks: tuple[int, int] = (0, 1)

    @classmethod
    def of(cls, loader: DataLoader[Any]) -> Dealing | None:
        """That of ``loader``; None where its batch sampler is somebody's own and may do anything."""
        chain_of = batch_samplers(loader)
        size = getattr(chain_of[-1], "batch_size", None)
        if not isinstance(size, int) or not _cuts_in_order(chain_of[-1]):
            return None
        drop_last = bool(chain_of[-1].drop_last)
        if dispatches(loader):
            processes = loader.state.num_processes  # type: ignore[attr-defined]
            step = size if loader.split_batches else size * processes  # type: ignore[attr-defined]
            return cls(size, step, size, 1 if drop_last else processes, drop_last)
        for wrapper in chain_of[:-1]:
            processes = getattr(wrapper, "num_processes", 1)
            if processes > 1:
                step = size if wrapper.split_batches else size * processes
                even = wrapper.even_batches and not drop_last
                uneven = not (wrapper.even_batches or wrapper.split_batches or drop_last)
                ranks = (wrapper.process_index, processes) if uneven else (0, 1)
                return cls(size, step, step, step if even else 1, drop_last, ranks)
        return cls(size, size, size, drop_last=drop_last)

    def batches(self, count: int) -> int:
        """The loader's batches, on this rank, for ``count`` indices."""
        if self.drop_last:
            return count // self.step
        if self.ranks == (0, 1):
            return -(-count // self.step)
        return len(range(self.ranks[0], -(-count // self.batch_size), self.ranks[1]))

    def fewest(self, count: int) -> int:
        """As `batches`, on the rank that has the fewest of them."""
        return self.batches(count) if self.ranks == (0, 1) else -(-count // self.batch_size) // self.ranks[1]

    def filling(self, count: int) -> int:
        """The indices that ``count`` are filled up with."""
        return -count % self.fill


def dispatches(loader: DataLoader[Any]) -> bool:
    """True for a loader that reads on rank 0 and sends the other ranks their part (``dispatch_batches=True``)."""
    if not hasattr(loader, "end_of_dataloader"):
        return False
    from accelerate.data_loader import DataLoaderDispatcher

    return DataLoaderDispatcher in type(loader).__mro__  # isinstance asks its __class__, which it lies about


def _cuts_in_order(batches: Any) -> bool:
    """True if a batch sampler gives its sampler's indices in their order, ``batch_size`` at a time."""
    return type(batches).__iter__ is BatchSampler.__iter__ or type(batches).__module__.startswith("torchdata.")


class RestOfEpoch(Sampler[int]):
    """The present epoch of a sampler from ``position`` on, for one iteration of a loader.

    Args:
        sampler: what was trained with; its epoch is set.
        position: indices that were consumed, on all ranks together.
        skipped: so many indices come first that the trainer itself will leave out.
        filling: so many of the epoch's first indices come last, as accelerate fills an epoch up to even batches; it
            could not do it itself, since it does not see the epoch's beginning.
    """

    def __init__(self, sampler: Any, position: int, *, skipped: int = 0, filling: int = 0) -> None:
        self.sampler, self.position, self.skipped, self.filling = sampler, position, skipped, filling

    def __len__(self) -> int:
        return len(self.sampler)  # a loader's length is that of whole epochs

    def __iter__(self) -> Iterator[int]:
        first = list(islice(iter(self.sampler), self.filling)) if self.filling else []
        last = islice(cycle(first), self.filling)  # a short epoch more than once
        if hasattr(self.sampler, "seek"):
            self.sampler.seek(self.position)
            rest = iter(self.sampler)
        else:
            rest = islice(iter(self.sampler), self.position, None)
        return chain(repeat(0, self.skipped), rest, last)
