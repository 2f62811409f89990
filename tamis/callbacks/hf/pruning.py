"""`PruningCallback`: a pruner's penalty, steps, validation batches and cut in a Hugging Face Trainer."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from tamis.callbacks.hf.component import ComponentCallback
from tamis.callbacks.validation import ValidationBatches
from tamis.core.distributed import broadcast_object
from tamis.core.errors import NoEffectWarning, NotPolarisedError, TamisError
from tamis.core.models import device_of, to_device
from tamis.core.types import MapDataset
from tamis.pruners.base import Loss, Pruner, Regularizer
from tamis.pruners.surgery.packing import check_stored

__all__ = ["PruningCallback"]

_log = logging.getLogger("tamis")


class PruningCallback(ComponentCallback):
    """Drives a `Pruner`: penalty into the gradients, a step after each optimizer step, the cut at the end.

    The penalty's gradient is added once per optimizer step, before the first micro-batch: exact under gradient
    accumulation, ``num_items_in_batch``, clipping, DDP, FSDP and AMP. It is not part of the logged loss;
    ``tamis/...`` scalars in the log show it. DeepSpeed owns ``.grad``, so there use
    ``attach(trainer, pruner, penalty="loss")``.

    Args:
        pruner: a `Pruner`, or a `Regularizer` (penalty only).
        validation: for a pruner that `validates` (DNIS): a map-style data set whose batches, made by the trainer's own
            collator, teach the gates. Neither training nor test data.
        prune_at_end: cut when training ends (the best model, with ``load_best_model_at_end``). If the gates
            have not polarised, or the cut is refused, nothing is cut and a `NoEffectWarning` says what to do.
        prune_options: keywords for ``pruner.prune``, e.g. ``consumers``, or ``quantize="int4"`` to store what is left
            so (a second ``train()`` then needs a model loaded in float). Unless they hold ``example_inputs``, the
            first rows of the training set are used: the cut finds and checks with them what it may slice.
    """

    prune_at_end: bool
    prune_options: dict[str, Any]
    plan: Any  # what the cut returned
    validation: Any
    _batches: dict[str, ValidationBatches]  # of the validation and the training set, by name
    _trainer: Any  # set by attach
    _in_loss: bool
    _scale: float

    def __init__(
        self,
        pruner: Regularizer | None = None,
        *,
        validation: MapDataset | None = None,
        prune_at_end: bool = True,
        **prune_options: Any,
    ) -> None:
        if pruner is not None and not isinstance(pruner, Regularizer):
            raise TypeError(f"pruner={type(pruner).__name__}: must be a pruner made from the model, e.g. DimReg(model)")
        _check_validation(pruner, validation)
        if prune_options.get("quantize") is not None:
            check_stored("quantize", prune_options["quantize"])
        super().__init__(
            pruner,
            validation=validation,
            _batches={},
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
                self._open_validation(args, kwargs["train_dataloader"])

    def _open_validation(self, args: Any, loader: Any) -> None:
        if self.validation is None:
            return
        if loader.dataset is self.validation:
            raise TamisError(
                "validation: is the training data set itself, on which every gate looks useful; give rows that are not "
                "trained on: train, validation = torch.utils.data.random_split(dataset, [0.9, 0.1])"
            )
        options: dict[str, Any] = {"batch_size": args.per_device_train_batch_size, "collate": loader.collate_fn}
        wanted = {"validation": self.validation} | ({"training": loader.dataset} if self.component.trains else {})
        for name, dataset in wanted.items():
            self._batches[name] = ValidationBatches(dataset, seed=args.data_seed or args.seed, **options)

    def _loss(self, name: str, args: Any, model: Any) -> Loss | None:
        """Computes the loss of the next batch of ``name``, as the trainer computes it."""
        if name not in self._batches:
            return None
        step = self.component.steps_taken
        inputs: list[Any] = []  # the same batch at each call

        def loss() -> torch.Tensor:
            if not inputs:
                inputs.append(to_device(_for_forward(self._batches[name].batch(step), model, args), device_of(model)))
            if self._trainer is not None:
                with self._trainer.compute_loss_context_manager():
                    value: torch.Tensor = self._trainer.compute_loss(model, _copy(inputs[0]))  # it may pop labels
                return value
            return _loss_of(model(**inputs[0]))

        return loss

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
            losses = {f"{name}_loss": self._loss(name, args, kwargs["model"]) for name in self._batches}
            self.component.step(grad_scale=self._scale, **losses)

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
            is_last = options.get("quantize") or self.component.quantize  # the tables cannot be trained afterwards
            optimizer = None if is_last else kwargs["optimizer"]
            self.plan = self.component.prune(optimizer, **options)
        except NotPolarisedError as error:
            warnings.warn(f"nothing was cut: {error}", NoEffectWarning, stacklevel=2)
            return
        except (TypeError, ValueError) as error:  # the model that was trained is worth more than the cut
            if self.component.report is not None:
                raise
            words = f"nothing was cut: {error}; the trained model is whole: mend it, then call pruner.prune()"
            warnings.warn(words, NoEffectWarning, stacklevel=2)
            return
        if self.component.retrain != "no":
            name = type(self.component).__name__
            _log.warning(
                "the cut model is not yet what %s is about, it trains again: small = pruner.restart(model), then a "
                "second Trainer",
                name,
            )
        if self._trainer is not None:  # a second train() must wrap the new parameters and build its optimizer anew
            self._trainer.model_wrapped = self._trainer.model
            self._trainer.optimizer = self._trainer.lr_scheduler = None


def _check_validation(pruner: Any, validation: Any) -> None:
    """A pruner that learns from validation batches must get them, and no other."""
    if pruner is None:  # Trainer makes the callback anew when it restores it
        return
    name, validates = type(pruner).__name__, isinstance(pruner, Pruner) and pruner.validates
    if validates and validation is None:
        raise TypeError(
            f"{name} learns from validation batches: PruningCallback({name.lower()}, validation=dataset), a data set "
            "that is neither trained on nor tested on"
        )
    if validation is not None and not validates:
        raise TypeError(f"validation: {name} learns nothing from validation batches; leave it out")


def _for_forward(batch: Any, model: Any, args: Any) -> Any:
    """The batch without the columns that Trainer would have removed."""
    if not isinstance(batch, Mapping) or not args.remove_unused_columns:
        return batch
    known = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return batch
    labels = {"label", "label_ids", "labels", *(args.label_names or ())}
    return {name: value for name, value in batch.items() if name in known or name in labels}


def _copy(batch: Any) -> Any:
    return dict(batch) if isinstance(batch, Mapping) else batch


def _loss_of(output: Any) -> torch.Tensor:
    """The loss in a model's output.

    Raises:
        TamisError: there is none.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None and isinstance(output, (tuple, list)) and output:
        loss = output[0]
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        raise TamisError(
            "validation: the model returns no loss; where the trainer computes it, use "
            "tamis.callbacks.attach(trainer, pruner, validation=dataset), which computes it the same way"
        )
    return loss


def _first_rows(loader: Any, count: int = 64) -> Any:
    """The first rows of the loader's data set as one batch on its device, the same on every rank; None for a stream."""
    from accelerate.utils import send_to_device

    if not (hasattr(loader.dataset, "__getitem__") and hasattr(loader.dataset, "__len__")):
        return None
    dataset, indices = loader.dataset, list(range(min(count, len(loader.dataset))))
    rows = dataset.__getitems__(indices) if hasattr(dataset, "__getitems__") else [dataset[i] for i in indices]
    return send_to_device(broadcast_object(loader.collate_fn(rows)), loader.device)
