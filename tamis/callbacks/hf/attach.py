"""What `tamis.callbacks.attach` does to a Hugging Face Trainer; no subclass is needed."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.data import RandomSampler

from tamis.callbacks.base import check_sampler
from tamis.callbacks.hf.position import update_max_steps
from tamis.callbacks.hf.pruning import PruningCallback
from tamis.callbacks.hf.sampling import EpochCallback, SamplerCallback
from tamis.callbacks.proof import check_strategy
from tamis.core.errors import TamisError
from tamis.pruners.base import Regularizer

__all__ = ["attach_epochs", "attach_pruner", "attach_sampler"]


def attach_sampler(trainer: Any, sampler: Any) -> SamplerCallback:
    """Give ``trainer`` the sampler and its `SamplerCallback`, and have it resume where the sampler was.

    Patches the instance: ``_get_train_sampler``, ``get_train_dataloader`` and ``_init_training_state``.
    """
    if trainer.train_dataset is not None or not _own_loader(trainer):  # else the loader's is checked as training begins
        check_sampler(sampler, trainer.train_dataset)
    check_strategy(trainer.args)
    _check_trainer(trainer)
    trainer.remove_callback(SamplerCallback)
    callback = SamplerCallback(sampler)
    trainer.add_callback(callback)
    trainer._get_train_sampler = lambda train_dataset=None: sampler
    trainer.get_train_dataloader = _remembered(_unpatched(trainer, "get_train_dataloader"), callback)
    if hasattr(trainer, "_init_training_state"):  # else the callback refuses a resume that it would have to correct
        trainer._init_training_state = _corrected(trainer, _unpatched(trainer, "_init_training_state"), callback)
    callbacks = trainer.callback_handler.callbacks
    callbacks.insert(0, callbacks.pop())  # before the reporters, which then log its scalars too
    return callback


def _check_trainer(trainer: Any) -> None:
    """Refuse a trainer class that makes its own order, as TRL's GRPO, which repeats prompts.

    An override may give a plain shuffle of all data, as Trainer's own method, which it may call: it is asked.
    """
    from transformers import Trainer

    own = type(trainer)._get_train_sampler
    if own is Trainer._get_train_sampler:
        return
    name, data = type(trainer).__name__, trainer.train_dataset
    try:
        with torch.random.fork_rng(devices=[]):
            made = own(trainer, data)
    except Exception as error:
        raise TamisError(
            f"{name}._get_train_sampler, which the attached sampler would replace, fails when it is asked for its "
            f"order ({type(error).__name__}: {error}); if {name} is yours, mend or remove it"
        ) from error
    if made is None or _shuffles_all(made, data):
        return
    raise TamisError(
        f"{name} makes an order of its own ({name}._get_train_sampler gives a {type(made).__name__}), which the "
        f"attached sampler would replace; leave the sampler out, or, if {name} is yours, remove its _get_train_sampler"
    )


def _shuffles_all(made: Any, data: Any) -> bool:
    """True for what Trainer makes itself: each sample once, shuffled."""
    plain = type(made) is RandomSampler and not made.replacement
    return plain and len(made) == len(made.data_source) and (data is None or len(data) == len(made))


def _own_loader(trainer: Any) -> bool:
    """True if a subclass, or its user, replaced ``get_train_dataloader``, which may know the data itself."""
    from transformers import Trainer

    method = _unpatched(trainer, "get_train_dataloader")
    return getattr(method, "__func__", None) is not Trainer.get_train_dataloader


def _unpatched(trainer: Any, name: str) -> Any:
    """The trainer's method as it was before an earlier attach."""
    method = getattr(trainer, name)
    while getattr(method, "_by_tamis", False):
        method = method.__wrapped__
    return method


def _remembered(get_train_dataloader: Any, callback: SamplerCallback) -> Any:
    """``get_train_dataloader`` that tells the callback what it gave."""

    @functools.wraps(get_train_dataloader)
    def wrapped() -> Any:
        callback.loader = get_train_dataloader()
        return callback.loader

    wrapped._by_tamis = True  # type: ignore[attr-defined]
    return wrapped


def _corrected(trainer: Any, init_training_state: Any, callback: SamplerCallback) -> Any:
    """``_init_training_state`` that finds epoch and batches to leave out by the position in the checkpoint."""

    @functools.wraps(init_training_state)
    def wrapped(max_steps: int, updates: int, num_train_epochs: int, *rest: Any, **named: Any) -> Any:
        found = init_training_state(max_steps, updates, num_train_epochs, *rest, **named)
        start = callback.tell_start(trainer.state, trainer.args)
        if start is None or (start.epoch, start.batches) == tuple(found):
            return found
        update_max_steps(trainer.state, trainer.args, start, max_steps, num_train_epochs, updates)
        return start.epoch, start.batches

    wrapped._by_tamis = True  # type: ignore[attr-defined]
    return wrapped


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
    trainer.compute_loss = _unpatched(trainer, "compute_loss")
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
