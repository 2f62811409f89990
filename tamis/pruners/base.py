"""What callbacks and loops know of a pruner: a penalty, a step, a cut, a state.

`Regularizer` is a penalty on parameters; `Pruner` adds the training-time state and the cut. Trainers talk to
these two classes only, so that a new pruner is one new file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["Pruner", "Regularizer"]


class Regularizer(ABC):
    """A differentiable penalty on some tensors of a model, added to the loss of each optimizer step."""

    @abstractmethod
    def parameters(self) -> Sequence[torch.Tensor]:
        """The tensors that the penalty differentiates (leaves that require grad)."""

    @abstractmethod
    def penalty(self) -> torch.Tensor:
        """The penalty, a scalar with a graph to `parameters`, its weight (lambda) included.

        A plain loop adds it to every micro-batch loss that it divides by the accumulation steps.
        """

    def add_penalty_grad(self, scale: float = 1.0) -> float:
        """Add ``scale`` x d penalty / d parameter to each ``.grad``; return the penalty's value.

        Called once before the first backward of an optimizer step, this is exactly the gradient of
        ``loss + penalty`` under accumulation, DDP averaging and clipping. The default differentiates
        `penalty`; a subclass with a closed form overrides it.
        """
        tensors = [t for t in self.parameters() if t.requires_grad]
        value = self.penalty()
        if tensors:
            grads: Sequence[torch.Tensor | None] = torch.autograd.grad(value, tensors, allow_unused=True)
            for tensor, grad in zip(tensors, grads, strict=True):
                if grad is None:
                    continue
                grad = grad.to(tensor.dtype) * scale
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad
        return float(value.detach())


class Pruner(Regularizer):
    """A regularizer that learns what to remove while a model trains, and removes it at the end."""

    def begin(self, total_steps: int) -> None:
        """Told by the trainer how many optimizer steps the training will have; resets nothing."""

    def step(self, *, grad_scale: float = 1.0) -> None:
        """Called once after each optimizer step. ``grad_scale``: the AMP loss scale still in gate gradients."""

    def skip_step(self) -> None:
        """Called instead of `step` when the optimizer skipped its step (AMP overflow): drop gate gradients."""

    @abstractmethod
    def prune(self, optimizer: Any = None, *, example_inputs: Any = None) -> Any:
        """Make the model physically smaller and return the `PruningPlan`.

        Args:
            optimizer: its state is transplanted to the smaller parameters; wrappers are unwrapped.
            example_inputs: a batch to run the model on, where the cut can use one.

        Raises:
            NotPolarisedError: what to cut is not decided yet; nothing was changed.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """JSON values and tensors: everything that is not in the model's own state dict."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; training then goes on as if it had not stopped."""

    def logs(self) -> dict[str, float]:
        """Scalars for the trainer's log, named ``tamis/...``."""
        return {}
