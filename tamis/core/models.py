"""Somebody else's model, run and left as it was: training flags, devices, the logits in its output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from tamis.core.errors import TamisError

Value = TypeVar("Value")

__all__ = ["device_of", "evaluating", "logits_of", "to_device", "training_flags"]


@contextmanager
def training_flags(model: nn.Module) -> Iterator[None]:
    """Whatever is done to the training flags of ``model`` and its parts inside, they are as before afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode inside; its training flags as they were afterwards, each part its own."""
    with training_flags(model):
        model.eval()
        yield


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@overload
def to_device(batch: Tensor, device: torch.device) -> Tensor: ...
@overload
def to_device(batch: Mapping[str, Value], device: torch.device) -> dict[str, Value]: ...
@overload
def to_device(batch: Sequence[Value], device: torch.device) -> list[Value]: ...
@overload
def to_device(batch: object, device: torch.device) -> object: ...
def to_device(batch: object, device: torch.device) -> object:
    """Every tensor of a batch on ``device``; the rest as it is.

    Args:
        batch: tensors, nested in mappings, lists and tuples.
        device: where they go.

    Returns:
        The same nesting, of dicts and lists.
    """
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return [to_device(value, device) for value in batch]
    return batch


def logits_of(output: object) -> Tensor:
    """The logits in a model's output: the tensor itself, ``.logits``, ``["logits"]`` or the first of a tuple.

    Raises:
        TamisError: it holds none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if not isinstance(output, Tensor):
        raise TamisError(
            "the model's output holds no logits, so no sample has a loss of its own: give a model whose output is "
            "logits, or has .logits or ['logits'], or pass a loss function of your own where one is taken"
        )
    return output
