"""A slip that no error would tell of: a pruner that is never stepped."""

from __future__ import annotations

import warnings

import torch

__all__ = ["StepWatch"]


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
