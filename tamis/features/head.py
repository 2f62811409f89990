"""Finding the linear layer that makes a model's logits, and its input: what the closed-form gradient norm needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HeadTap"]


class HeadTap:
    """Listens to the linear layers; `take` gives the input of the one that made the logits.

    Args:
        model: whose linear layers may make the logits.
        head: the layer that makes them, if it is known.
    """

    def __init__(self, model: nn.Module, head: nn.Linear | None) -> None:
        layers = [head] if head is not None else [m for m in model.modules() if isinstance(m, nn.Linear)]
        self.seen: list[tuple[nn.Linear, Tensor, Tensor]] = []
        self.hooks = [layer.register_forward_hook(self._note) for layer in layers]

    def _note(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim == 2:
            self.seen.append((layer, inputs[0], output.clone()))  # type: ignore[arg-type]  # may be changed in place

    def take(self, logits: Tensor) -> tuple[Tensor, bool]:
        """The head's input [B, D] and whether the head has a bias.

        Args:
            logits: of the model, float [B, C].
        """
        seen, self.seen = self.seen, []
        p = logits.log_softmax(-1)  # a constant added to all logits of a row changes no gradient
        found = [(layer, h) for layer, h, z in seen if z.shape == p.shape and _same(z.double().log_softmax(-1), p)]
        if not found:
            raise ValueError(
                "no nn.Linear's output is the model's logits (another layer makes them, or they are changed after "
                'it): pass head=... with the layer that makes them, or gradient="exact"'
            )
        layer, hidden = found[-1]
        return hidden, layer.bias is not None

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
