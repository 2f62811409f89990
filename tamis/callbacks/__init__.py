"""Seams into trainers: `attach`, `SamplerCallback`, `PruningCallback`, `EpochCallback`, `ResumableLoader`.

The callbacks load on first use, so that a plain loop never imports transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tamis.callbacks.loop import ResumableLoader

if TYPE_CHECKING:
    from tamis.callbacks.hf import EpochCallback, PruningCallback, SamplerCallback

__all__ = ["EpochCallback", "PruningCallback", "ResumableLoader", "SamplerCallback", "attach"]


def attach(target: Any, component: Any, **options: Any) -> Any:
    """Plug ``component`` into a Hugging Face ``Trainer`` or an ``Accelerator``, with exact resume.

    ==============  ==========================  ===================================================================
    target          component                   effect
    ==============  ==========================  ===================================================================
    Trainer         sampler                     replaces the train sampler, saves and restores its state
    Trainer         regularizer or pruner       `PruningCallback` (``penalty="grad"``, or ``"loss"`` for DeepSpeed)
    Trainer         anything with `set_epoch`   `EpochCallback`: a transform, data set or collator that draws anew
    Accelerator     anything with `state_dict`  saved and restored by ``save_state`` / ``load_state`` (``name=``)
    ==============  ==========================  ===================================================================

    Attaching a second sampler or pruner to a Trainer replaces the first.

    Returns:
        The callback that was added to a Trainer; None for an Accelerator.

    Raises:
        TypeError: target or component is of another kind, or the sampler cannot be used by a trainer.
        ValueError: the sampler was made for another data set.
    """
    from torch.utils.data import Sampler

    from tamis.pruners.base import Regularizer

    if hasattr(target, "register_save_state_pre_hook"):
        from tamis.callbacks.accelerate import attach_component

        return attach_component(target, component, **options)
    if not (hasattr(target, "_get_train_sampler") and hasattr(target, "add_callback")):
        raise TypeError(f"target={type(target).__name__}: must be a transformers Trainer or an accelerate Accelerator")
    from tamis.callbacks.hf import attach_epochs, attach_pruner, attach_sampler

    if isinstance(component, Sampler):
        return attach_sampler(target, component, **options)
    if isinstance(component, Regularizer):
        return attach_pruner(target, component, **options)
    if hasattr(component, "set_epoch"):
        return attach_epochs(target, component, **options)
    raise TypeError(
        f"component={type(component).__name__}: must be a sampler, a Regularizer, a Pruner, or have set_epoch(epoch)"
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tamis.callbacks' has no attribute {name!r}")
    from tamis.callbacks import hf

    return getattr(hf, name)
