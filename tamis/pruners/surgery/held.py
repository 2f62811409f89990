"""Parameters that a model holds in lists of its own: a cut replaces parameters, and such a list keeps the old ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["Held", "held_in_lists", "warn_of_old"]

Held = list[tuple[str, str, int]]  # attribute of the model, name of the parameter, its id

DEEPEST, LONGEST = 4, 1000  # nested so deep, and so many entries of a container, are looked at


def held_in_lists(model: nn.Module) -> Held:
    """Where plain attributes of the modules (lists, tuples, dicts, or bare) hold parameters of ``model``.

    For example deepctr's ``regularization_weight``. Parameters that are registered are not among them. No parameter is
    kept alive by the answer.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    internals = vars(nn.Module()).keys()
    found: Held = []
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in internals:
                continue
            where = f"{path}.{attribute}" if path else attribute
            found += [(where, names[number], number) for number in _parameters(value, DEEPEST) if number in names]
    return found


def _parameters(value: Any, depth: int) -> Iterator[int]:
    """The ids of the parameters in ``value``."""
    if isinstance(value, nn.Parameter):
        yield id(value)
    elif isinstance(value, (list, tuple, set, dict)) and depth:
        for number, entry in enumerate(value.values() if isinstance(value, dict) else value):
            if number == LONGEST:
                return
            yield from _parameters(entry, depth - 1)


_CUT = (
    "the cut replaced: they stay in memory, and a penalty on them acts on nothing; put the model's new parameters there"
)


def warn_of_old(model: nn.Module, held: Held, what: str = _CUT) -> None:
    """Name what still holds parameters that are no longer the model's.

    Args:
        model: after the cut.
        held: `held_in_lists` before it.
        what: what happened to the tensors, and the cure.

    Warns:
        UserWarning: per attribute, with the parameters' names.
    """
    left = {id(parameter) for parameter in model.parameters()}
    old: dict[str, list[str]] = {}
    for where, name, number in held:
        if number not in left and name not in old.setdefault(where, []):
            old[where].append(name)
    for where, names in old.items():
        if names:
            warnings.warn(
                f"model.{where} still holds the old tensors of {', '.join(names)}, which {what}",
                UserWarning,
                stacklevel=4,
            )
