"""Carry an optimizer's state over to the parameters that remain of one, so that training goes on where it was.

Any `torch.optim.Optimizer` whose state is made of numbers, tensors with the parameter's shape [n, d], and factored
tensors [n, 1] and [1, d] (Adafactor): Adam, AdamW, SparseAdam, Adagrad, SGD with momentum, RMSprop, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.types import OptimizerLike
from tamis.pruners.selection import Part, Selection

__all__ = [
    "Take",
    "check_state",
    "narrow_columns",
    "narrow_parameter",
    "replace_parameter",
    "takes_of",
    "unwrap_optimizers",
]

Take = Callable[[Tensor], Tensor]  # what a new parameter takes of a tensor [n or 1, d or 1] that follows the old one


def unwrap_optimizers(optimizer: OptimizerLike | None) -> list[torch.optim.Optimizer]:
    """The torch optimizers in ``optimizer``: None, one, a sequence, or wrappers that hold one as ``.optimizer``.

    Raises:
        TypeError: something else is among them.
    """
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
    """Some columns as a new contiguous tensor [n, k], without a graph.

    Args:
        tensor: [n, d].
        columns: [k] int64.
    """
    return tensor.detach().index_select(1, columns.to(tensor.device))


def takes_of(selection: Selection, rows: int, width: int) -> list[Take]:
    """What each new parameter takes of the old one [rows, width] and of every tensor of its state.

    Args:
        selection: what remains.
        rows: of the old parameter.
        width: of the old parameter.

    Returns:
        One function per part, or one that takes the values of a mask as [nnz].
    """
    if selection.mask is not None:
        mask = selection.mask
        return [lambda tensor: tensor.detach()[mask.to(tensor.device)]]
    return [_take_part(part, rows, width) for part in selection.parts]


def _take_part(part: Part, rows: int, width: int) -> Take:
    def take(tensor: Tensor) -> Tensor:
        taken = tensor.detach()
        if part.rows is not None and taken.shape[0] == rows:
            taken = taken.index_select(0, part.rows.to(taken.device))
        return narrow_columns(taken, part.columns) if taken.shape[1] == width else taken

    return take


def check_state(
    optimizers: Iterable[torch.optim.Optimizer], parameters: Sequence[Tensor], *, full: bool = False
) -> None:
    """Refuse state that cannot be cut, before anything is changed.

    Args:
        optimizers: whose state is to be carried over.
        parameters: [n, d] each, that will be cut.
        full: refuse factored state too: single values are taken, and a factor has none of its own.

    Raises:
        ValueError: names the optimizer, the state's name and its shape.
    """
    for optimizer in optimizers:
        for parameter in parameters:
            for name, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor) or value.numel() <= 1:
                    continue
                if not (value.shape == parameter.shape if full else _follows(value, parameter)):
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
    """`replace_parameter` by some of its columns: a new parameter [n, k].

    Args:
        old: [n, d].
        columns: [k] int64.
        optimizers: whose state is cut too.
        keep_old: ``old`` stays in the optimizers besides.
    """
    takes = takes_of(Selection.columns(columns), *old.shape)
    return replace_parameter(old, takes, optimizers, keep_old=keep_old)[0]


def replace_parameter(
    old: nn.Parameter,
    takes: Sequence[Take],
    optimizers: Iterable[torch.optim.Optimizer] = (),
    *,
    keep_old: bool = False,
) -> list[nn.Parameter]:
    """New parameters that stand for parts of ``old`` [n, d], in its place in the optimizers, state included.

    One tensor is copied at a time and the old one freed before the next.

    Args:
        old: the parameter. Optimizers that do not hold it are left alone.
        takes: for each new parameter, what it takes of a tensor that follows ``old``.
        optimizers: torch optimizers, changed in place.
        keep_old: ``old`` is still in use elsewhere (a tied head): keep it and its state, add the new ones beside it.
    """
    places = [
        (optimizer, group["params"], place)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for place, parameter in enumerate(group["params"])
        if parameter is old
    ]
    states = [
        _split_state(optimizer.state.get(old, {}) if keep_old else optimizer.state.pop(old, {}), old, takes, keep_old)
        for optimizer, _, _ in places
    ]
    new = [nn.Parameter(take(old), requires_grad=old.requires_grad) for take in takes]
    for (optimizer, group, place), parts in zip(places, states, strict=True):
        group[place : place + 1] = [old, *new] if keep_old else new
        for parameter, state in zip(new, parts, strict=True):
            if state:
                optimizer.state[parameter] = state
    return new


def _split_state(
    state: dict[str, Any], old: nn.Parameter, takes: Sequence[Take], keep_old: bool
) -> list[dict[str, Any]]:
    """The optimizer state of each new parameter."""
    state = dict(state)
    parts: list[dict[str, Any]] = [{} for _ in takes]
    for name in list(state):
        value = state.pop(name)
        follows = isinstance(value, Tensor) and value.dim() == 2 and _follows(value, old)
        shared = isinstance(value, Tensor) and (keep_old or len(takes) > 1)  # two must not share a step counter
        for part, take in zip(parts, takes, strict=True):
            part[name] = take(value) if follows else value.clone() if shared else value
        del value  # else the last wide one lives on while the parameter is copied
    return parts


def _follows(value: Tensor, parameter: Tensor) -> bool:
    n, d = parameter.shape
    return value.dim() == 2 and value.shape[0] in (1, n) and value.shape[1] in (1, d)
