"""Carry an optimizer's state over to a parameter that has lost columns, so that training goes on where it was.

Any `torch.optim.Optimizer` whose state is made of numbers, tensors with the parameter's shape [n, d], and factored
tensors [n, 1] and [1, d] (Adafactor): Adam, AdamW, SparseAdam, Adagrad, SGD with momentum, RMSprop, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["check_state", "narrow_columns", "narrow_parameter", "unwrap_optimizers"]


def unwrap_optimizers(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The torch optimizers in ``optimizer``: None, one, a sequence, or wrappers that hold one as ``.optimizer``."""
    several = optimizer if isinstance(optimizer, (list, tuple)) else [] if optimizer is None else [optimizer]
    found = []
    for item in several:
        while hasattr(item, "optimizer"):  # Accelerate's AcceleratedOptimizer
            item = item.optimizer
        if not isinstance(item, torch.optim.Optimizer):
            raise TypeError(f"optimizer={type(item).__name__}: must be a torch.optim.Optimizer, or a list of them")
        found.append(item)
    return found


def narrow_columns(tensor: Tensor, columns: Tensor) -> Tensor:
    """The columns of ``tensor`` [n, d] as a new contiguous tensor [n, k], without a graph."""
    return tensor.detach().index_select(1, columns.to(tensor.device))


def check_state(optimizers: Iterable[torch.optim.Optimizer], parameters: Sequence[Tensor]) -> None:
    """Refuse state that cannot be cut by columns, before anything is changed.

    Raises:
        ValueError: names the optimizer, the state's name and its shape.
    """
    for optimizer in optimizers:
        for parameter in parameters:
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.numel() > 1 and not _follows(value, parameter):
                    raise ValueError(
                        f"optimizer={type(optimizer).__name__}: state {name!r} has shape {list(value.shape)}, which "
                        f"does not follow its parameter's {list(parameter.shape)}; cut without optimizer= and make "
                        "a new one afterwards"
                    )


def narrow_parameter(
    old: nn.Parameter,
    columns: Tensor,
    optimizers: Iterable[torch.optim.Optimizer] = (),
    *,
    keep_old: bool = False,
) -> nn.Parameter:
    """A new parameter [n, k] with the ``columns`` of ``old`` [n, d], in its place in the optimizers, state included.

    One tensor is copied at a time and the wide one freed before the next.

    Args:
        old: the wide parameter. Optimizers that do not hold it are left alone.
        columns: [k] int64.
        optimizers: torch optimizers, changed in place.
        keep_old: ``old`` is still in use elsewhere (a tied head): keep it and its state, and add the new one beside it.
    """
    places = [
        (optimizer, group["params"], place)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for place, parameter in enumerate(group["params"])
        if parameter is old
    ]
    states: list[dict[str, Any]] = []
    for optimizer, _, _ in places:
        state = dict(optimizer.state.get(old, {})) if keep_old else optimizer.state.pop(old, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == old.shape[1]:
                state[name] = narrow_columns(value, columns)
            elif isinstance(value, Tensor) and keep_old:
                state[name] = value.clone()  # two parameters must not share a step counter
            del value  # else the last wide one lives on while the parameter is copied
        states.append(state)
    new = nn.Parameter(narrow_columns(old, columns), requires_grad=old.requires_grad)
    for (optimizer, group, place), state in zip(places, states, strict=True):
        group[place : place + 1] = [old, new] if keep_old else [new]
        if state:
            optimizer.state[new] = state
    return new


def _follows(value: Tensor, parameter: Tensor) -> bool:
    n, d = parameter.shape
    return value.dim() == 2 and value.shape[0] in (1, n) and value.shape[1] in (1, d)
