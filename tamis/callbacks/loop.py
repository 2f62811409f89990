"""The plain PyTorch loop (also with Accelerate's prepared loaders): batches that remember where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from tamis.callbacks.base import ResumableSampler, check_length, check_sampler
from tamis.callbacks.dealing import Dealing, RestOfEpoch, innermost_sampler, put_sampler, tell_epoch
from tamis.callbacks.proof import check_drawn, check_ranks
from tamis.core.checks import check_int
from tamis.core.distributed import world_size
from tamis.core.errors import TamisError
from tamis.core.types import Stateful

__all__ = ["ResumableLoader"]


class ResumableLoader:
    """Counts consumed batches, tells sampler and data set the epoch, and resumes exactly where `state_dict` was taken.

    ::

        batches = ResumableLoader(loader, sampler)
        for epoch in batches.epochs(3):
            for batch in batches:
                ...                       # batches.state_dict() at any moment: JSON values and tensors

    Without `epochs`, each pass over it is the next epoch. A state may be loaded with another batch size or number of
    processes: the global order goes on at the same index. A new pass ends the one before, which says so if it is asked
    for more.

    Args:
        loader: a `DataLoader` over ``sampler``, as built (in one process) or as returned by ``accelerator.prepare``,
            with any ``DataLoaderConfiguration``. What a stateful loader saves itself is not needed and not used. A data
            set with ``set_epoch`` is told each epoch; ``persistent_workers`` are begun anew for it, unless it says
            ``epoch_reaches_workers``, as tamis's own.
        sampler: a tamis sampler (or any with ``set_epoch``, ``seek``, ``state_dict``, ``load_state_dict``).
        components: further stateful things saved along, by name, e.g. ``pruner=pruner``.

    Raises:
        TypeError, ValueError: the sampler does not fit, see `tamis.callbacks.base.check_sampler`, or an epoch is
            shorter than a batch and ``drop_last=True`` leaves nothing of it.
        TamisError: the first batch was not drawn from the sampler, the processes hold different ones, or several
            processes would each see all of the data through a plain loader.
    """

    def __init__(self, loader: DataLoader[Any], sampler: ResumableSampler, **components: Stateful) -> None:
        check_sampler(sampler, loader.dataset)
        used = innermost_sampler(loader)
        if used is not sampler:
            raise ValueError(
                f"loader draws from a {type(used).__name__}, not from the sampler that was given: build it with "
                "DataLoader(dataset, batch_size=..., sampler=sampler)"
            )
        self._prepared = hasattr(loader, "end_of_dataloader")
        if not self._prepared and loader.batch_size is None:
            raise ValueError(
                "loader has a batch_sampler of its own, whose position cannot be found again; "
                "build it with DataLoader(dataset, batch_size=..., sampler=sampler)"
            )
        self.loader, self.sampler, self.components = loader, sampler, components
        self.epoch = 0
        self.batch = 0
        self._from = (0, 0)  # a batch number and the position before it
        self._length = len(sampler)
        self._pass: object = None  # the pass that is running
        self._compared = False  # with the other ranks' samplers
        self._dealing = Dealing.of(loader)
        self._check_dealt()
        self._source = _without_state(loader) if self._prepared else loader

    def _check_dealt(self) -> None:
        """Refuse a loader that gives all ranks the same batches, or some rank none."""
        if not self._prepared and world_size() > 1:
            raise TamisError(
                "loader: a plain DataLoader, from which each process would draw the same batches; pass "
                "accelerator.prepare(loader). A process that trains alone, as for one trial of a search, needs no "
                "ResumableLoader: loop over the loader itself"
            )
        if (len(self.loader) if self._dealing is None else self._dealing.fewest(self._length)) < 1:
            raise ValueError(
                f"loader gives no batch to a process: an epoch has {self._length} samples, too few for batch_size="
                f"{getattr(self._dealing, 'batch_size', None)}, the number of processes and drop_last; use a smaller "
                "batch_size, or drop_last=False"
            )

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs still to do, up to ``count``; after a resume the first may be a partial one."""
        count = check_int("count", count, low=0)
        self._turn_over()
        while self.epoch < count:
            yield self.epoch
            self._next_epoch()

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def position(self) -> int | None:
        """Indices of the epoch's global order consumed so far, on all ranks; None for a batch sampler of one's own."""
        if self._dealing is None:
            return None
        first, position = self._from
        return min(position + (self.batch - first) * self._dealing.step, self._length)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the present epoch that were not consumed yet."""
        running = self._pass = object()
        check_length(self.sampler, self._length)
        self._check_dealt()
        self._turn_over()
        self.sampler.set_epoch(self.epoch)
        if self._prepared and not self._compared:
            check_ranks(self.sampler)
            self._compared = True
        iterations = getattr(self.sampler, "iterations", None)
        try:
            for batch in self._rest():
                if iterations is not None:
                    check_drawn(self.sampler, self.loader, iterations)
                    iterations = None
                self.batch += 1
                yield batch
                if self._pass is not running:
                    raise TamisError(
                        "ResumableLoader: another pass over it was begun, or a state loaded, while this one was "
                        "running, so that nobody could count what was consumed; end the loop first"
                    )
        finally:
            if self._pass in (running, None):
                put_sampler(self.loader, self.sampler)

    def _rest(self) -> Any:
        """A loader of the batches that are left."""
        source: Any = self._source
        if self._prepared:
            source.set_epoch(self.epoch)
        elif getattr(source, "_initial_iter_for_state_dict", False) or getattr(source, "next_iter_state", None):
            raise ValueError(
                "loader: a StatefulDataLoader whose own state was asked for or loaded, and that goes on from there; "
                "use its state or ResumableLoader's, not both"
            )
        tell_epoch(source, self.epoch)
        order: Any = self.sampler
        if self.position and self._dealing is not None:
            filling = self._dealing.filling(self._length - self.position)
            order = RestOfEpoch(self.sampler, self.position, filling=filling)
        put_sampler(self.loader, order)
        if self.batch and self._dealing is None:
            from accelerate import skip_first_batches

            source = skip_first_batches(source, self.batch)
        return source

    def _turn_over(self) -> None:
        """Go on to the next epoch if the present one is consumed."""
        if self.batch >= len(self.loader):
            self._next_epoch()

    def _next_epoch(self) -> None:
        self.epoch, self.batch, self._from = self.epoch + 1, 0, (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position and batches consumed in it, the sampler's and the components' states."""
        states = {name: component.state_dict() for name, component in self.components.items()}
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "batches": len(self.loader),
            "position": self.position,
            "sampler": self.sampler.state_dict(),
            "components": states,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the next `epochs` and `iter` go on after the last consumed batch.

        Raises:
            ValueError: the state has other components, or an epoch had another number of batches and the state does
                not say the position (as those of release 0.1, and of batch samplers of one's own).
        """
        position = state.get("position")
        known = position is not None and self._dealing is not None
        if not known and state["batches"] != len(self.loader):
            raise ValueError(
                f"the saved loader had {state['batches']} batches an epoch, this one has {len(self.loader)}: "
                "resume with the same batch size and number of processes"
            )
        if set(state["components"]) != set(self.components):
            raise ValueError(
                f"saved components {sorted(state['components'])}, present ones {sorted(self.components)}: "
                "build the ResumableLoader with the same names"
            )
        self._pass = None
        self.sampler.load_state_dict(state["sampler"])
        self.epoch, self.batch, self._from = int(state["epoch"]), int(state["batch"]), (0, 0)
        if position is not None and self._dealing is not None:
            self.batch = len(self.loader) - self._dealing.batches(self._length - int(position))
            self._from = (self.batch, int(position))
        for name, component in self.components.items():
            component.load_state_dict(state["components"][name])


def _without_state(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A prepared loader that begins each pass anew.

    A stateful one goes on from what accelerate has saved and loaded, beside the position that is kept here, and has its
    workers read the first batches while it is prepared, before anybody was told the epoch.
    """
    if not getattr(loader, "use_stateful_dataloader", False):
        return loader
    from accelerate import skip_first_batches

    fresh: DataLoader[Any] = skip_first_batches(loader, 0)
    loader.base_dataloader._iterator = None  # type: ignore[attr-defined]  # ends the workers that have read ahead
    return fresh
