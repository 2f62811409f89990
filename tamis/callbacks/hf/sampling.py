"""Callbacks that put a sampler into Trainer's loader, and tell components the epoch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback

from tamis.callbacks.base import check_length, check_sampler
from tamis.callbacks.dealing import Dealing, RestOfEpoch, put_sampler, restart_workers
from tamis.callbacks.hf.component import ComponentCallback
from tamis.callbacks.hf.position import (
    Start,
    check_sizes,
    move_schedule,
    start_at,
    trainers_place,
    trainers_start,
    updates_per_epoch,
)
from tamis.callbacks.proof import check_drawn, check_loader, check_ranks, check_strategy
from tamis.core.errors import TamisError

__all__ = ["EpochCallback", "SamplerCallback"]


class SamplerCallback(ComponentCallback):
    """Puts ``sampler`` into the trainer's loader, tells it the epoch, and saves and restores its state and position.

    Training stops with an error before the first step if the trainer does not draw from it.

    A resumed run goes on at the very index of the global order, whatever the batch size, accumulation and number of
    processes are now. With ``ignore_data_skip=True`` it begins the epoch again, as Trainer does.

    Alone (``callbacks=[SamplerCallback(sampler)]``) it needs ``len(sampler)`` equal to the length of the trainer's
    own sampler, and a resume the batch size and number of processes of the checkpoint, because Trainer counts its
    steps before any callback runs; `tamis.callbacks.attach` has no such limits.
    """

    _length: int
    _updates: int  # optimizer steps in an epoch
    loader: DataLoader[Any] | None  # the trainer's, of whole epochs
    _dealing: Dealing | None
    _start: Start | None  # where this run goes on in the data; None where Trainer finds it
    _epoch: int | None  # of the data; None before the first
    _from: int  # position at which this run began with the epoch
    _batches: int  # micro-batches since
    _told: bool  # attach has told Trainer where to go on
    _proven: bool
    _iterations: int | None  # the sampler's before the first epoch

    def __init__(self, sampler: Any = None) -> None:
        super().__init__(
            sampler, loader=None, _dealing=None, _start=None, _epoch=None, _from=0, _batches=0, _told=False
        )

    def state(self) -> dict[str, Any]:
        """The sampler's state, and the place in the data."""
        state = super().state()
        if self._dealing is not None and self._epoch is not None:
            position = self._position(self._dealing)
            state["attributes"]["place"] = {"epoch": self._epoch, "position": position, "updates": self._updates}
        return state

    def _position(self, dealing: Dealing) -> int:
        """Indices of the present epoch's global order consumed so far, on all processes."""
        return min(self._from + self._batches * dealing.step, self._length)

    def tell_start(self, state: Any, args: Any) -> Start | None:
        """Where training goes on, for a trainer that will do what it is told; None if it finds it itself.

        Args:
            state: the trainer's, as loaded.
            args: the trainer's.
        """
        start = self._find_start(state, args)
        self._told = start is not None
        return start

    def _find_start(self, state: Any, args: Any) -> Start | None:
        """Where training goes on after the place in a checkpoint; None where nobody knows it."""
        dealing = None if self.loader is None else Dealing.of(self.loader)
        place = self._find_place(state, args)
        if place is None or dealing is None or self.loader is None:
            return None
        return start_at(place["epoch"], place["position"], len(self.component), self.loader, dealing, args)

    def _find_place(self, state: Any, args: Any) -> dict[str, int] | None:
        """What `state` has saved, or in a checkpoint without it (of release 0.1) where Trainer's steps lead."""
        entry = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if not isinstance(entry, dict):
            return None
        place: dict[str, int] | None = entry["attributes"].get("place")
        dealing = None if self.loader is None else Dealing.of(self.loader)
        if place is None and dealing is not None and self.loader is not None:
            return trainers_place(state, self.loader, dealing, args, len(self.component))
        return place

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loader = kwargs["train_dataloader"]
        check_strategy(args)
        check_sampler(self.component, loader.dataset)
        check_loader(self.component, loader)
        put_sampler(loader, self.component)
        self.loader, self._dealing = loader, Dealing.of(loader)
        self._length, self._updates = len(self.component), updates_per_epoch(loader, args)
        self._epoch, self._from, self._batches, self._proven = None, 0, 0, False
        self._start, place = self._find_start(state, args), self._find_place(state, args)
        saved = state.stateful_callbacks.get(type(self).__name__)
        if isinstance(saved, dict) and (self._dealing is None or "place" not in saved["attributes"]):
            check_sizes(state, loader, self._dealing, args)
        if self._start is not None and place is not None:
            self._check_start(self._start, place, args, state, kwargs)
        self._restore(state)
        check_ranks(self.component)

    def _check_start(self, start: Start, place: dict[str, int], args: Any, state: Any, kwargs: Any) -> None:
        """Refuse a resume that would go on elsewhere than where the checkpoint was; set the schedule right."""
        if not self._told and trainers_start(state, kwargs["train_dataloader"], args) != (start.epoch, start.batches):
            raise TamisError(
                f"the checkpoint was written at index {place['position']} of epoch {place['epoch']}, and Trainer goes "
                "on elsewhere, since a step uses another number of samples now; use attach(trainer, sampler) in place "
                "of callbacks=[SamplerCallback(sampler)], which tells it"
            )
        if place["updates"] != self._updates and args.max_steps <= 0:
            done = start.epoch * self._updates + start.batches // args.gradient_accumulation_steps
            move_schedule(kwargs["lr_scheduler"], kwargs["optimizer"], done)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        check_length(self.component, self._length)
        first = self._epoch is None
        start = self._start or Start(int(state.epoch or 0))
        self._epoch = start.epoch if self._epoch is None else self._epoch + 1
        self._from = start.position if first else 0
        self._batches = 0
        # accelerate's own set_epoch misses the sampler after a mid-epoch resume on several processes
        self.component.set_epoch(self._epoch)
        order = self.component
        if self._from and self._dealing is not None:
            skipped = start.batches * self._dealing.skipped
            order = RestOfEpoch(self.component, self._from, skipped=skipped, filling=start.filling)
        put_sampler(kwargs["train_dataloader"], order)
        self._iterations = getattr(self.component, "iterations", None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._proven:  # the first batch was drawn, and nothing learnt from it yet
            check_drawn(self.component, kwargs["train_dataloader"], self._iterations)
            self._proven = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._batches += 1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """``tamis/...`` scalars of the sampler beside each training loss."""
        if "loss" not in kwargs["logs"] or not hasattr(self.component, "logs"):
            return
        values = self.component.logs(None if self._dealing is None else self._position(self._dealing))
        kwargs["logs"].update(values)
        if state.log_history:
            state.log_history[-1].update(values)


class EpochCallback(TrainerCallback):
    """Tells a transform, data set or collator which epoch begins, so that what it draws is new in each.

    Trainer itself tells a data set, but on several processes not if its sampler has ``set_epoch`` too, and a transform
    or collator never. Workers that stay (``dataloader_persistent_workers=True``) are begun anew for each epoch, to know
    it, unless the component says ``epoch_reaches_workers`` (a true attribute), as tamis's own, which keep the epoch in
    shared memory.

    Args:
        component: anything with ``set_epoch(epoch)``.
    """

    def __init__(self, component: Any) -> None:
        self.component = component
        self._epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch = int(state.epoch or 0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the epoch's first batch; after a resume in mid-epoch too."""
        self.component.set_epoch(self._epoch)
        restart_workers(kwargs["train_dataloader"], self.component)
        self._epoch += 1  # not from the state: an epoch may have been ended early
