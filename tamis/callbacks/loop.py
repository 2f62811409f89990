"""The plain PyTorch loop (also with Accelerate's prepared loaders): batches that remember where they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from tamis.callbacks.base import ResumableSampler, check_length, check_sampler, innermost_sampler
from tamis.core.checks import check_int
from tamis.core.types import Stateful

__all__ = ["ResumableLoader"]


class ResumableLoader:
    """Counts consumed batches, tells the sampler the epoch, and resumes exactly where `state_dict` was taken.

    ::

        batches = ResumableLoader(loader, sampler)
        for epoch in batches.epochs(3):
            for batch in batches:
                ...                       # batches.state_dict() at any moment: JSON values and tensors

    Without `epochs`, each pass over it is the next epoch.

    Args:
        loader: a `DataLoader` over ``sampler``, as built or as returned by ``accelerator.prepare``.
        sampler: a tamis sampler (or any with ``set_epoch``, ``seek``, ``state_dict``, ``load_state_dict``).
        components: further stateful things saved along, by name, e.g. ``pruner=pruner``.

    Raises:
        TypeError, ValueError: the sampler does not fit, see `tamis.callbacks.base.check_sampler`.
    """

    def __init__(self, loader: DataLoader[Any], sampler: ResumableSampler, **components: Stateful) -> None:
        check_sampler(sampler, loader.dataset)
        used = innermost_sampler(loader)
        if used is not sampler:
            raise ValueError(
                f"loader draws from a {type(used).__name__}, not from the sampler that was given: build it with "
                "DataLoader(dataset, batch_size=..., sampler=sampler)"
            )
        if not hasattr(loader, "end_of_dataloader") and loader.batch_size is None:
            raise ValueError(
                "loader has a batch_sampler of its own, whose position cannot be found again; "
                "build it with DataLoader(dataset, batch_size=..., sampler=sampler)"
            )
        self.loader, self.sampler, self.components = loader, sampler, components
        self.epoch = 0
        self.batch = 0
        self._length = len(sampler)

    def epochs(self, count: int) -> Iterator[int]:
        """The epochs still to do, up to ``count``; after a resume the first may be a partial one."""
        count = check_int("count", count, low=0)
        self._turn_over()
        while self.epoch < count:
            yield self.epoch
            self.epoch, self.batch = self.epoch + 1, 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the present epoch that were not consumed yet."""
        check_length(self.sampler, self._length)
        self._turn_over()
        self.sampler.set_epoch(self.epoch)
        loader: Any = self.loader
        if hasattr(loader, "end_of_dataloader"):  # prepared by Accelerate: its own skipping keeps ranks in step
            from accelerate import skip_first_batches

            loader.set_epoch(self.epoch)
            loader.set_sampler(self.sampler)
            if self.batch:
                loader = skip_first_batches(loader, self.batch)
        elif self.batch:
            self.sampler.seek(min(self.batch * loader.batch_size, len(self.sampler)))
        for batch in loader:
            self.batch += 1
            yield batch

    def _turn_over(self) -> None:
        """Go on to the next epoch if the present one is consumed."""
        if self.batch >= len(self.loader):
            self.epoch, self.batch = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches consumed in it, the sampler's and the components' states."""
        states = {name: component.state_dict() for name, component in self.components.items()}
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "batches": len(self.loader),
            "sampler": self.sampler.state_dict(),
            "components": states,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the next `epochs` and `iter` go on after the last consumed batch.

        Raises:
            ValueError: the state has other components, or an epoch had another number of batches.
        """
        if state["batches"] != len(self.loader):
            raise ValueError(
                f"the saved loader had {state['batches']} batches an epoch, this one has {len(self.loader)}: "
                "resume with the same batch size and number of processes"
            )
        if set(state["components"]) != set(self.components):
            raise ValueError(
                f"saved components {sorted(state['components'])}, present ones {sorted(self.components)}: "
                "build the ResumableLoader with the same names"
            )
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        self.sampler.load_state_dict(state["sampler"])
        for name, component in self.components.items():
            component.load_state_dict(state["components"][name])
