"""What `tamis.callbacks.attach` does to a Hugging Face Trainer; no subclass is needed."""

from __future__ import annotations

import functools
from typing import Any

from tamis.callbacks.base import check_sampler
from tamis.callbacks.hf.pruning import PruningCallback
from tamis.callbacks.hf.sampling import EpochCallback, SamplerCallback
from tamis.pruners.base import Regularizer

__all__ = ["attach_epochs", "attach_pruner", "attach_sampler"]


def attach_sampler(trainer: Any, sampler: Any) -> SamplerCallback:
    """Give ``trainer`` the sampler (an instance patch of ``_get_train_sampler``) and its `SamplerCallback`."""
    check_sampler(sampler, trainer.train_dataset)
    trainer._get_train_sampler = lambda train_dataset=None: sampler
    trainer.remove_callback(SamplerCallback)
    callback = SamplerCallback(sampler)
    trainer.add_callback(callback)
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(0, callbacks.pop())  # before the reporters, which then log its scalars too
    return callback


def attach_epochs(trainer: Any, component: Any) -> EpochCallback:
    """Have ``trainer`` tell ``component`` each epoch; several components can be attached."""
    callback = EpochCallback(component)
    trainer.add_callback(callback)
    return callback


def attach_pruner(trainer: Any, pruner: Regularizer, *, penalty: str = "grad", **options: Any) -> PruningCallback:
    """Give ``trainer`` a `PruningCallback` that knows it; ``penalty="loss"`` adds the penalty to the loss itself."""
    if penalty not in ("grad", "loss"):
        raise ValueError(f"penalty={penalty!r}: must be 'grad' or 'loss'")
    trainer.remove_callback(PruningCallback)
    callback = PruningCallback(pruner, **options)
    callback._trainer = trainer
    callback._in_loss = penalty == "loss"
    unpatched = getattr(trainer.compute_loss, "__wrapped__", None)
    if unpatched is not None and getattr(trainer.compute_loss, "_by_tamis", False):
        trainer.compute_loss = unpatched  # of an earlier attach
    if callback._in_loss:
        trainer.compute_loss = _with_penalty(trainer, trainer.compute_loss, callback)
    trainer.add_callback(callback)
    return callback


def _with_penalty(trainer: Any, compute_loss: Any, callback: PruningCallback) -> Any:
    """``compute_loss`` plus the penalty, weighted so that one optimizer step sees it exactly once."""

    @functools.wraps(compute_loss)
    def wrapped(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        result = compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        if not model.training or callback.plan is not None:
            return result
        steps = trainer.current_gradient_accumulation_steps
        # Trainer divides by the accumulation steps unless the loss was already normalised over the whole batch
        scaled = trainer.loss_is_scaled_for_ga
        if scaled is None:
            uses_items = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = uses_items or trainer.compute_loss_func is not None
        term = callback.component.penalty() / (steps if scaled else 1)
        return (result[0] + term, result[1]) if return_outputs else result + term

    wrapped._by_tamis = True  # type: ignore[attr-defined]
    return wrapped
