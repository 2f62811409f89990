"""Seams into trainers: `attach`, `SamplerCallback`, `PruningCallback`, `EpochCallback`, `ResumableLoader`.

The callbacks load on first use, so that a plain loop never imports transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, overload

from tamis.callbacks.loop import ResumableLoader
from tamis.core.extras import needs
from tamis.core.types import Accelerator, Stateful, TrainerLike

if TYPE_CHECKING:
    from torch.utils.data import Sampler

    from tamis.callbacks.hf import EpochCallback, PruningCallback, SamplerCallback, TrajectoryCallback
    from tamis.features.trajectory import LossTrajectory
    from tamis.pruners.base import Regularizer


class HasEpoch(Protocol):
    """A transform, data set or collator that draws anew in each epoch."""

    def set_epoch(self, epoch: int, /) -> None:
        """Draw for this epoch."""
        ...


__all__ = ["EpochCallback", "PruningCallback", "ResumableLoader", "SamplerCallback", "attach"]


@overload
def attach(target: TrainerLike, component: Sampler[int]) -> SamplerCallback: ...
@overload
def attach(target: TrainerLike, component: Regularizer, **options: Any) -> PruningCallback: ...
@overload
def attach(target: TrainerLike, component: LossTrajectory) -> TrajectoryCallback: ...
@overload
def attach(target: TrainerLike, component: HasEpoch) -> EpochCallback: ...
@overload
def attach(target: Accelerator, component: Stateful, *, name: str | None = None) -> None: ...
def attach(target: object, component: object, **options: Any) -> object:
    """Plug ``component`` into a Hugging Face ``Trainer`` or an ``Accelerator``, with exact resume.

    ==============  ==========================  ===================================================================
    target          component                   effect
    ==============  ==========================  ===================================================================
    Trainer         sampler                     replaces the train sampler, saves and restores its state
    Trainer         regularizer or pruner       `PruningCallback` (``penalty="grad"``, or ``"loss"`` for DeepSpeed)
    Trainer         anything with `set_epoch`   `EpochCallback`: a transform, data set or collator that draws anew
    Trainer         `LossTrajectory`            notes loss and margin of each training sample; saved and restored
    Accelerator     anything with `state_dict`  saved and restored by ``save_state`` / ``load_state`` (``name=``)
    ==============  ==========================  ===================================================================

    Attaching a second sampler or pruner to a Trainer replaces the first.

    Args:
        target: the trainer.
        component: what to plug in.
        options: those that the table names, and for pruners those of `PruningCallback`.

    Returns:
        The callback that was added to a Trainer; None for an Accelerator.

    Raises:
        TypeError: target or component is of another kind, or the sampler cannot be used by a trainer.
        ValueError: the sampler was made for another data set.
    """
    from torch.utils.data import Sampler

    from tamis.features.trajectory import LossTrajectory
    from tamis.pruners.base import Regularizer

    if hasattr(target, "register_save_state_pre_hook"):
        from tamis.callbacks.accelerate import attach_component

        attach_component(target, component, **options)
        return None
    if not (hasattr(target, "_get_train_sampler") and hasattr(target, "add_callback")):
        raise TypeError(f"target={type(target).__name__}: must be a transformers Trainer or an accelerate Accelerator")
    from tamis.callbacks.hf import attach_epochs, attach_pruner, attach_sampler, attach_trajectory

    if isinstance(component, Sampler):
        return attach_sampler(target, component, **options)
    if isinstance(component, Regularizer):
        return attach_pruner(target, component, **options)
    if isinstance(component, LossTrajectory):
        return attach_trajectory(target, component, **options)
    if hasattr(component, "set_epoch"):
        return attach_epochs(target, component, **options)
    raise TypeError(
        f"component={type(component).__name__}: must be a sampler, a Regularizer, a Pruner, a LossTrajectory, or have "
        "set_epoch(epoch)"
    )


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'tamis.callbacks' has no attribute {name!r}")
    with needs("hf", name):
        from tamis.callbacks import hf

    return getattr(hf, name)
