"""What a pruner checks of its arguments: settings of its own method, and losses that are computed anew."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Loss", "check_config", "checked_loss"]

Loss = Callable[[], Tensor]  # a scalar with a graph, computed anew at each call


def check_config(pruner: object, config: Any, kinds: type[Any] | tuple[type[Any], ...]) -> Any:
    """``config``, or the default settings if it is None.

    Args:
        pruner: whose settings they are, for the error.
        config: the settings.
        kinds: what they may be; the first is made if there are none.

    Raises:
        TypeError: the settings of another method, named in the error.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if config is None:
        return kinds[0]()
    if not isinstance(config, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        given = config.__name__ if isinstance(config, type) else type(config).__name__
        raise TypeError(f"config={given}: must be {wanted}, the settings of {type(pruner).__name__}")
    return config


def checked_loss(name: str, loss: Loss) -> Loss:
    """``loss`` with its value looked at, at each call.

    Args:
        name: how errors call it.
        loss: returns a scalar tensor of floats.

    Raises:
        TypeError: no function; or, when called, no scalar tensor of floats comes back.
        ValueError: when called, the same tensor comes back as before, or one without a graph while gradients are on.
    """
    cure = "give a function that computes the loss: lambda: criterion(model(x), y)"
    if not callable(loss):
        raise TypeError(f"{name}={type(loss).__name__}: must be computed anew at each call; {cure}")
    last: list[weakref.ref[Tensor]] = []  # weak: the graph of a loss is large

    def value() -> Tensor:
        found = loss()
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(f"{name}: must return one number as a tensor of floats, got {got}; {cure}")
        if last and last[0]() is found:
            raise ValueError(f"{name}: returned the same tensor twice; it must be computed anew at each call; {cure}")
        if torch.is_grad_enabled() and not found.requires_grad:
            raise ValueError(
                f"{name}: has no graph, so that it says nothing about the gates; compute it without torch.no_grad(), "
                f"torch.inference_mode() and detach(); {cure}"
            )
        last[:] = [weakref.ref(found)]
        return found.reshape(())

    return value
