"""A `LossTrajectory` in a Hugging Face Trainer: the items carry their number, `compute_loss` notes what they lost."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from tamis.callbacks.hf.component import ComponentCallback
from tamis.core.errors import TamisError
from tamis.core.models import logits_of
from tamis.features.trajectory import LossTrajectory

__all__ = ["TrajectoryCallback", "attach_trajectory"]

_NUMBER = "tamis_index"


class TrajectoryCallback(ComponentCallback):
    """Saves and restores a `LossTrajectory` with the checkpoints; made by `attach_trajectory`.

    Args:
        trajectory: that `attach_trajectory` feeds.
    """

    def __init__(self, trajectory: LossTrajectory | None = None) -> None:
        super().__init__(trajectory)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:  # another training, or the same begun again with smaller batches
            self.component.reset()
        self._restore(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save:  # on all ranks; the state is then written by the first
            self.component.sync()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.component.sync()


def attach_trajectory(trainer: Any, trajectory: LossTrajectory) -> TrajectoryCallback:
    """Have ``trainer`` note loss and margin of each training sample, from the forward passes that it does anyway.

    Of training only, not of ``evaluate`` on the same data; each ``train()`` that is no resume begins anew.

    Args:
        trainer: of a classifier; its items are mappings.
        trajectory: of as many samples as the training data.

    Raises:
        ValueError: the trajectory is of another size.
    """
    if len(trainer.train_dataset) != trajectory.size:
        raise ValueError(
            f"size={trajectory.size}: must be {len(trainer.train_dataset)}, the samples of trainer.train_dataset"
        )
    trainer._set_signature_columns_if_needed()
    if trainer._signature_columns is not None and _NUMBER not in trainer._signature_columns:
        trainer._signature_columns = [*trainer._signature_columns, _NUMBER]  # else Trainer takes it out
    if not isinstance(trainer.train_dataset, _Numbered):
        trainer.train_dataset = _Numbered(trainer.train_dataset)
        trainer.data_collator = _NumberedCollator(trainer.data_collator)
        trainer.compute_loss = _noting(trainer.compute_loss)
    trainer.compute_loss.trajectory = trajectory
    trainer.remove_callback(TrajectoryCallback)
    callback = TrajectoryCallback(trajectory)
    trainer.add_callback(callback)
    return callback


class _Numbered(torch.utils.data.Dataset[Any]):
    """A data set whose items carry their number."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        if not isinstance(item, Mapping):
            raise TypeError(f"train_dataset[{index}]: must be a dict to be followed, got {type(item).__name__}")
        return {**item, _NUMBER: int(index)}

    def set_epoch(self, epoch: int) -> None:
        """Passed on to a data set that draws anew in each epoch."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class _NumberedCollator:
    """The user's collator, which sees items as they were; the numbers are put beside its batch."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        if not items or not isinstance(items[0], Mapping) or _NUMBER not in items[0]:
            return self.collate(items)  # of the evaluation data
        numbers = torch.tensor([item[_NUMBER] for item in items])
        batch = self.collate([{name: value for name, value in item.items() if name != _NUMBER} for item in items])
        batch[_NUMBER] = numbers
        return batch

    def __getattr__(self, name: str) -> Any:
        if name == "collate":
            raise AttributeError(name)
        return getattr(self.collate, name)


def _noting(compute_loss: Any) -> Any:
    """``compute_loss`` that notes what each sample of a training batch lost."""

    @functools.wraps(compute_loss)
    def wrapped(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        numbers = inputs.pop(_NUMBER, None) if isinstance(inputs, dict) or hasattr(inputs, "pop") else None
        if numbers is None or not model.training:  # other data, or an evaluation on the training data
            return compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        labels = inputs.get("labels", inputs.get("label"))
        loss, outputs = compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if labels is None:
            raise TamisError("the batch has no labels, so that no sample has a loss of its own to follow")
        wrapped.trajectory.update(numbers, _without_loss(outputs), labels)  # type: ignore[attr-defined]
        return (loss, outputs) if return_outputs else loss

    return wrapped


def _without_loss(outputs: Any) -> torch.Tensor:
    """The logits; a tuple of outputs begins with the loss if labels were given."""
    if isinstance(outputs, (tuple, list)) and len(outputs) > 1 and getattr(outputs[0], "ndim", 1) == 0:
        outputs = outputs[1:]
    return logits_of(outputs)
