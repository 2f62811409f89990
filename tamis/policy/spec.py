"""From a policy's fields to JSON values and back, strictly by their annotations.

A field may be annotated with ``bool``, ``int``, ``float``, ``str``, ``X | None`` (or another union of these),
``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]`` or a frozen dataclass of such fields. Nothing is guessed: a
``bool`` is not an ``int``, a list is not a tuple; only an ``int`` is taken for a ``float``. Integers must fit
64 bits and floats must be finite, so that every JSON reader sees the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

__all__ = ["check_hint", "convert", "convert_fields", "field_hints", "is_tensor_hint"]

Scalar: TypeAlias = bool | int | float | str | None
Kind = TypeVar("Kind")

_SCALARS: dict[object, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (float, int, np.floating, np.integer),
    str: (str,),
    type(None): (type(None),),
}
_UNIONS = (Union, types.UnionType)
# resolving evaluates the annotations' source text: once per class, and never because of what a file says
_resolved: dict[type, dict[str, object]] = {}


def is_tensor_hint(hint: object) -> bool:
    """True for ``torch.Tensor`` and ``dict[str, torch.Tensor]``: what goes to the tensor file."""
    return hint is torch.Tensor or (get_origin(hint) is dict and get_args(hint) == (str, torch.Tensor))


def field_hints(cls: type) -> Mapping[str, object]:
    """The resolved annotation of every dataclass field of ``cls``."""
    if cls not in _resolved:
        hints = get_type_hints(cls)
        _resolved[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _resolved[cls]


def check_hint(hint: object, where: str) -> None:
    """Refuse an annotation that cannot be stored.

    Args:
        hint: a resolved annotation.
        where: names the field, for the message.

    Raises:
        TypeError: names the field, its annotation and the ones that are allowed.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return
    if origin in _UNIONS or (origin is tuple and args):
        inner = [arg for arg in args if arg is not Ellipsis]
    elif origin is dict and args[0] is str:
        inner = [args[1]]
    elif _is_frozen_dataclass(hint):
        inner = list(field_hints(hint).values())
    else:
        raise TypeError(
            f"{where}: {hint!r}: a policy field must be annotated with bool, int, float, str, X | None, tuple[X, ...], "
            "tuple[X, Y], dict[str, X], a frozen dataclass of these, torch.Tensor or dict[str, torch.Tensor]"
        )
    for arg in inner:
        check_hint(arg, where)


def convert(value: object, hint: object, where: str, *, loading: bool) -> Any:
    """Turn a field's value into a JSON value, or (``loading``) a JSON value into the field's value.

    Args:
        value: the one or the other.
        hint: the field's annotation, which `check_hint` accepts.
        where: names the field, for the message.
        loading: from JSON to the field.

    Raises:
        TypeError: the value's type is not the annotation's; the message holds ``where``.
        ValueError: a number is not finite or too large, text is not valid Unicode, a tuple has another length.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _scalar(value, hint, where)
    if origin in _UNIONS:
        return _union(value, args, hint, where, loading=loading)
    if origin is tuple:
        given: list[Any] | tuple[Any, ...]
        given = _expect(value, list, hint, where) if loading else _expect(value, tuple, hint, where)
        hints = [args[0]] * len(given) if args[-1] is Ellipsis else list(args)
        if len(given) != len(hints):
            raise ValueError(f"{where}: must have {len(hints)} items, got {len(given)}")
        items = [
            convert(item, arg, f"{where}[{i}]", loading=loading)
            for i, (item, arg) in enumerate(zip(given, hints, strict=True))
        ]
        return tuple(items) if loading else items
    if origin is dict:
        return {
            _scalar(key, str, f"{where}: key"): convert(item, args[1], f"{where}[{key!r}]", loading=loading)
            for key, item in _expect(value, dict, hint, where).items()
        }
    if not isinstance(hint, type):
        raise TypeError(f"{where}: {hint!r} cannot be stored")
    if loading:
        return hint(**convert_fields(value, field_hints(hint), where, loading=True))
    return convert_fields(vars(_expect(value, hint, hint, where)), field_hints(hint), where, loading=False)


def convert_fields(values: object, hints: Mapping[str, object], where: str, *, loading: bool) -> dict[str, Any]:
    """`convert` each of the fields named by ``hints``; a missing or an unknown one is an error.

    Args:
        values: a dict with a value for each field.
        hints: the fields' annotations.
        where: names the whole, for the message.
        loading: as `convert`.

    Raises:
        TypeError, ValueError: as `convert`, or ``values`` is not a dict with exactly these keys.
    """
    given = _expect(values, dict, dict, where)
    for word, names in (("missing", hints.keys() - given.keys()), ("unknown", given.keys() - hints.keys())):
        if names:
            raise ValueError(f"{where}: {word} key {reprlib.repr(min(names))}; allowed: {', '.join(sorted(hints))}")
    return {name: convert(given[name], hint, f"{where}.{name}", loading=loading) for name, hint in hints.items()}


def _scalar(value: object, hint: object, where: str) -> Scalar:
    own, *_ = kinds = _SCALARS[hint]
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
        raise TypeError(f"{where}={reprlib.repr(value)}: must be {_name(hint)}, got {type(value).__name__}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where}: must fit 64 bits, got an int of {value.bit_length()} bits")
    scalar: Scalar = None if value is None else own(value)
    if isinstance(scalar, float) and not math.isfinite(scalar):
        raise ValueError(f"{where}={value}: must be finite")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}={reprlib.repr(value)}: must be valid Unicode ({error.reason})") from error
    return scalar


def _union(value: object, args: tuple[object, ...], hint: object, where: str, *, loading: bool) -> Any:
    """Take the member whose type is exactly the value's, else the first that accepts it."""
    inner = [arg for arg in args if arg is not type(None)]
    if value is not None and len(inner) == 1 and inner[0] not in _SCALARS:  # its own message says more than ours
        return convert(value, inner[0], where, loading=loading)
    for arg in sorted(args, key=lambda arg: type(value) is not arg):
        try:
            return convert(value, arg, where, loading=loading)
        except TypeError:
            continue
    raise TypeError(f"{where}={reprlib.repr(value)}: must be {_name(hint)}, got {type(value).__name__}")


def _expect(value: object, kind: type[Kind], hint: object, where: str) -> Kind:
    """The value, which must be of ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{where}={reprlib.repr(value)}: must be {_name(hint)}, got {type(value).__name__}")
    return value


def _is_frozen_dataclass(hint: object) -> TypeGuard[type]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint) and vars(hint)["__dataclass_params__"].frozen


def _name(hint: object) -> str:
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
