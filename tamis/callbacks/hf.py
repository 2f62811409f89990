"""Hugging Face Trainer: `SamplerCallback`, `PruningCallback`, `EpochCallback`, and `attach`, which needs no subclass.

State travels in ``trainer_state.json`` (``state.stateful_callbacks``), which Trainer loads whatever
``restore_callback_states_from_checkpoint`` says; so each callback restores its component in place.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from tamis.callbacks.base import check_length, check_sampler, innermost_sampler
from tamis.core.distributed import broadcast_object
from tamis.core.errors import NoEffectWarning, NotPolarisedError, TamisError
from tamis.core.state import from_jsonable, to_jsonable
from tamis.pruners.base import Pruner, Regularizer

__all__ = ["EpochCallback", "PruningCallback", "SamplerCallback", "attach_epochs", "attach_pruner", "attach_sampler"]


class _ComponentCallback(TrainerCallback, ExportableState):
    """Carries one component's state through ``trainer_state.json``.

    With ``restore_callback_states_from_checkpoint`` Trainer replaces each callback by ``type(callback)(**args)``, made
    from JSON, which cannot hold a sampler. So each instance gets a class of its own that remembers its attributes:
    the replacement has the same ones, and the component that was there stays in use.
    """

    _shared: dict[str, Any] | None = None

    def __init__(self, component: Any = None, **attributes: Any) -> None:
        cls = type(self)
        if component is None:
            if cls._shared is None:
                raise TypeError(f"{cls.__name__}: missing its component, e.g. {cls.__name__}(component)")
            self.__dict__ = cls._shared
            return
        self.component = component
        self.__dict__.update(attributes)
        own: Any = type(cls.__name__, (cls,), {"_shared": self.__dict__, "__module__": cls.__module__})
        self.__class__ = own

    def state(self) -> dict[str, Any]:
        """What Trainer writes at every checkpoint."""
        return {"args": {}, "attributes": {"saved": to_jsonable(self.component.state_dict())}}

    def _restore(self, state: Any) -> None:
        """Load what the checkpoint holds for this callback, if training resumes from one."""
        name = type(self).__name__
        entry = state.stateful_callbacks.get(name)
        if isinstance(entry, list):
            raise TamisError(f"{name}: a Trainer takes one of them, got {len(entry)}; combine the components")
        if state.global_step > 0:
            if entry is None:
                raise TamisError(
                    f"the checkpoint at step {state.global_step} holds no state of {name}: it was written without it; "
                    "resume without the callback, or start anew with it"
                )
            self.component.load_state_dict(from_jsonable(entry["attributes"]["saved"]))
        state.stateful_callbacks[name] = self.state()  # Trainer's save expects the key


class SamplerCallback(_ComponentCallback):
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


class PruningCallback(_ComponentCallback):
    """Drives a `Pruner`: penalty into the gradients, a step after each optimizer step, the cut at the end.

    The penalty's gradient is added once per optimizer step, before the first micro-batch: exact under gradient
    accumulation, ``num_items_in_batch``, clipping, DDP, FSDP and AMP. It is not part of the logged loss;
    ``tamis/...`` scalars in the log show it. DeepSpeed owns ``.grad``, so there use
    ``attach(trainer, pruner, penalty="loss")``.

    Args:
        pruner: a `Pruner`, or a `Regularizer` (penalty only).
        prune_at_end: cut when training ends (the best model, with ``load_best_model_at_end``). If the gates
            have not polarised, nothing is cut and a `NoEffectWarning` says what to do.
        prune_options: keywords for ``pruner.prune``, e.g. ``consumers``. Unless they hold ``example_inputs``, the
            first rows of the training set are used: the cut finds and checks with them what it may slice.
    """

    prune_at_end: bool
    prune_options: dict[str, Any]
    plan: Any  # what the cut returned
    _trainer: Any  # set by attach
    _in_loss: bool
    _scale: float

    def __init__(self, pruner: Regularizer | None = None, *, prune_at_end: bool = True, **prune_options: Any) -> None:
        if pruner is not None and not isinstance(pruner, Regularizer):
            raise TypeError(f"pruner={type(pruner).__name__}: must be a pruner made from the model, e.g. DimReg(model)")
        super().__init__(
            pruner,
            prune_at_end=prune_at_end,
            prune_options=prune_options,
            plan=None,
            _trainer=None,
            _in_loss=False,
            _scale=1.0,
        )

    def state(self) -> dict[str, Any]:
        return super().state() if isinstance(self.component, Pruner) else {"args": {}, "attributes": {"saved": {}}}

    def _restore(self, state: Any) -> None:
        if isinstance(self.component, Pruner):
            super()._restore(state)
        else:
            state.stateful_callbacks[type(self).__name__] = self.state()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.n_gpu > 1:
            raise TamisError(
                f"Trainer uses nn.DataParallel over {args.n_gpu} GPUs, whose replicas drop the gates' gradients; "
                "launch with torchrun or accelerate, or set CUDA_VISIBLE_DEVICES to one GPU"
            )
        pruned = getattr(self.component, "model", None)
        if pruned is not None and not any(module is pruned for module in kwargs["model"].modules()):
            raise TamisError(
                f"{type(self.component).__name__} was made for another {type(pruned).__name__} than the one that this "
                "Trainer trains; make it anew from the trainer's model"
            )
        if args.deepspeed and not self._in_loss:
            raise TamisError(
                "DeepSpeed clips and steps inside backward, so a penalty added to .grad is lost; "
                'use tamis.callbacks.attach(trainer, pruner, penalty="loss") instead of callbacks=[PruningCallback]'
            )
        if self.plan is None:
            self._restore(state)
            if isinstance(self.component, Pruner):
                self.component.begin(state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.plan is not None:
            return
        scaler = getattr(kwargs["optimizer"], "scaler", None)
        self._scale = float(scaler.get_scale()) if scaler is not None else 1.0
        if not self._in_loss:
            self.component.add_penalty_grad(self._scale)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.plan is not None or not isinstance(self.component, Pruner):
            return
        if getattr(kwargs["optimizer"], "step_was_skipped", False):
            self.component.skip_step()
        else:
            self.component.step(grad_scale=self._scale)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if isinstance(self.component, Pruner) and self.plan is None:
            values = self.component.logs()
            kwargs["logs"].update(values)
            if state.log_history:
                state.log_history[-1].update(values)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (self.prune_at_end and isinstance(self.component, Pruner)) or self.plan is not None:
            return
        try:
            options = dict(self.prune_options)
            if "example_inputs" not in options:
                options["example_inputs"] = _first_rows(kwargs["train_dataloader"])
            self.plan = self.component.prune(kwargs["optimizer"], **options)
        except NotPolarisedError as error:
            warnings.warn(f"nothing was cut: {error}", NoEffectWarning, stacklevel=2)
            return
        if self._trainer is not None:  # a second train() must wrap the new parameters and build its optimizer anew
            self._trainer.model_wrapped = self._trainer.model
            self._trainer.optimizer = self._trainer.lr_scheduler = None


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


def _first_rows(loader: Any, count: int = 64) -> Any:
    """The first rows of the loader's data set as one batch on its device, the same on every rank; None for a stream."""
    from accelerate.utils import send_to_device

    if not (hasattr(loader.dataset, "__getitem__") and hasattr(loader.dataset, "__len__")):
        return None
    dataset, indices = loader.dataset, list(range(min(count, len(loader.dataset))))
    rows = dataset.__getitems__(indices) if hasattr(dataset, "__getitems__") else [dataset[i] for i in indices]
    return send_to_device(broadcast_object(loader.collate_fn(rows)), loader.device)


def attach_sampler(trainer: Any, sampler: Any) -> SamplerCallback:
    """Give ``trainer`` the sampler (an instance patch of ``_get_train_sampler``) and its `SamplerCallback`."""
    check_sampler(sampler, trainer.train_dataset)
    trainer._get_train_sampler = lambda train_dataset=None: sampler
    trainer.remove_callback(SamplerCallback)
    callback = SamplerCallback(sampler)
    trainer.add_callback(callback)
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
