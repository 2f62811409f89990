"""Two slips that no error would tell of: a pruner that is never stepped, and an optimizer that trains what was cut."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

__all__ = ["StepWatch", "warn_of_stale"]


class StepWatch:
    """Warns if a weight changes again and again between two penalties while nobody says that a step was taken.

    Micro-batches of one step do not change weights, and a restored checkpoint changes them once: neither is told of.
    """

    SLIPS = 3

    def __init__(self) -> None:
        self._version: int | None = None
        self._slips = 0

    def penalty(self, weight: torch.Tensor) -> None:
        """A penalty is asked for; ``weight``: one that the user's optimizer trains."""
        version = weight._version
        self._slips += self._version is not None and version != self._version
        self._version = version
        if self._slips == self.SLIPS:
            warnings.warn(
                f"the tables changed {self.SLIPS} times without a pruner.step(), so no gate moves and prune() will "
                "refuse; call pruner.step() after each optimizer.step() (PruningCallback does it in a Trainer)",
                stacklevel=3,
            )

    def stepped(self) -> None:
        """The pruner was told of the step, taken or skipped."""
        self._version, self._slips = None, 0


def warn_of_stale(model: nn.Module, before: Iterable[weakref.ref[nn.Parameter]]) -> None:
    """Warn when an optimizer steps that still holds a parameter which the cut has replaced.

    Args:
        model: after the cut.
        before: its parameters before it, not kept alive: who holds one that the model has no more is not known yet.
    """
    present = {id(parameter) for parameter in model.parameters()}
    gone = [ref for ref in before if (old := ref()) is not None and id(old) not in present]

    def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        alive = {id(old) for ref in gone if (old := ref()) is not None}
        held = sum(id(p) in alive for group in optimizer.param_groups for p in group["params"])
        if held or not alive:
            handle.remove()
        if held:
            warnings.warn(
                f"{type(optimizer).__name__} still holds {held} parameters that the cut has replaced, so it does not "
                "train the new ones; hand it to the cut, prune(optimizer), or make a new one after it",
                stacklevel=3,
            )

    if gone:
        handle = register_optimizer_step_pre_hook(look)
