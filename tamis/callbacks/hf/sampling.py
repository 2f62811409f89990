"""Callbacks that put a sampler into Trainer's loader, and tell components the epoch."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from tamis.callbacks.base import check_length, check_sampler, innermost_sampler
from tamis.callbacks.hf.component import ComponentCallback

__all__ = ["EpochCallback", "SamplerCallback"]


class SamplerCallback(ComponentCallback):
    """Puts ``sampler`` into the trainer's loader, tells it the epoch, and saves and restores its state.

    Alone (``callbacks=[SamplerCallback(sampler)]``) it needs ``len(sampler)`` equal to the length of the trainer's
    own sampler, because Trainer counts its steps before any callback runs; `tamis.callbacks.attach` has no
    such limit.
    """

    _length: int

    def __init__(self, sampler: Any = None) -> None:
        super().__init__(sampler, _length=0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loader = kwargs["train_dataloader"]
        check_sampler(self.component, loader.dataset)
        present = innermost_sampler(loader)
        if present is not self.component:
            check_length(self.component, len(present))
        loader.set_sampler(self.component)  # also lets set_epoch through the wrappers that accelerate adds
        self._length = len(self.component)
        self._restore(state)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        check_length(self.component, self._length)
        # accelerate's own set_epoch misses the sampler after a mid-epoch resume on several processes
        self.component.set_epoch(int(state.epoch or 0))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """``tamis/...`` scalars of the sampler beside each training loss."""
        if "loss" not in kwargs["logs"] or not hasattr(self.component, "logs"):
            return
        values = self.component.logs()
        kwargs["logs"].update(values)
        if state.log_history:
            state.log_history[-1].update(values)


class EpochCallback(TrainerCallback):
    """Tells a transform, data set or collator which epoch begins, so that what it draws is new in each.

    Trainer itself tells a data set, but on several processes not if its sampler has ``set_epoch`` too, and a transform
    or collator never.

    Args:
        component: anything with ``set_epoch(epoch)``.
    """

    def __init__(self, component: Any) -> None:
        self.component = component

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the epoch's first batch; after a resume in mid-epoch too."""
        self.component.set_epoch(int(state.epoch or 0))
