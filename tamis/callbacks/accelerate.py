"""Accelerate: component state inside ``accelerator.save_state`` / ``load_state``, as JSON.

``accelerator.register_for_checkpointing(component)`` works too, but pickles.
"""

from __future__ import annotations

from pathlib import Path

from tamis.core.distributed import rank
from tamis.core.state import read_state, write_state
from tamis.core.types import Accelerator, Stateful

__all__ = ["attach_component"]


def attach_component(accelerator: Accelerator, component: object, *, name: str | None = None) -> None:
    """Save and restore ``component`` with the accelerator's own checkpoints (file ``tamis_<name>.json``).

    Args:
        accelerator: an `accelerate.Accelerator`.
        component: a sampler, a pruner or a `tamis.callbacks.ResumableLoader`.
        name: distinguishes components of one class; default the class name.

    Raises:
        TypeError: ``component`` has no ``state_dict``/``load_state_dict``.
        ValueError: the name is taken.
    """
    if not isinstance(component, Stateful):
        raise TypeError(f"{type(component).__name__}: must have state_dict and load_state_dict")
    file = f"tamis_{name or type(component).__name__}.json"
    taken: set[str] = accelerator.__dict__.setdefault("_tamis_files", set())
    if file in taken:
        raise ValueError(f"name={name!r}: {file} is already attached to this accelerator; pass another name=")
    taken.add(file)

    def save(models: object, weights: object, output_dir: str) -> None:
        if rank() == 0:  # the state is the same on every rank
            write_state(Path(output_dir) / file, component.state_dict())

    def load(models: object, input_dir: str) -> None:
        component.load_state_dict(read_state(Path(input_dir) / file))

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)
