"""Argument checks with one wording: ``name=value: must be ALLOWED`` (and the cure, where there is one)."""

from __future__ import annotations

import math
import reprlib

__all__ = ["check_choice", "check_int", "check_range", "check_type"]


def check_int(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """Return ``value`` as int if it is an integer in [low, high].

    Args:
        name: the argument's name, for the message.
        value: what was given; NumPy integers and integer tensors of one value count as integers, bools do not.
        low: the least that is allowed.
        high: the most that is allowed; None for no limit.

    Raises:
        TypeError: not an integer.
        ValueError: out of range.
    """
    index = getattr(value, "__index__", None)  # many times quicker than isinstance(value, SupportsIndex)
    if isinstance(value, bool) or index is None:
        raise TypeError(f"{name}={value!r}: must be an int, got {type(value).__name__}")
    number = int(index())
    if number < low or (high is not None and number > high):
        allowed = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name}={number}: must be {allowed}")
    return number


def check_range(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return ``value`` as float if it is finite and lies between the bounds.

    Args:
        name: the argument's name, for the message.
        value: what was given; anything with ``__float__`` but bools counts as a number.
        low: lower bound.
        high: upper bound.
        open_low: ``low`` itself is not allowed.
        open_high: ``high`` itself is not allowed.

    Raises:
        TypeError: not a number.
        ValueError: NaN, infinite or out of range.
    """
    to_float = getattr(value, "__float__", None)
    if isinstance(value, bool) or to_float is None:
        raise TypeError(f"{name}={value!r}: must be a number, got {type(value).__name__}")
    number = float(to_float())
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if not math.isfinite(number) or below or above:
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{name}={number}: must be finite and in {left}{low:g}, {high:g}{right}")
    return number


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Args:
        name: the argument's name, for the message.
        value: what was given.
        choices: what is allowed.

    Raises:
        ValueError: it is none of them; the message lists them.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")
    return str(value)


def check_type(name: str, value: object, kind: type | tuple[type, ...], cure: str) -> None:
    """Refuse a value of another type.

    Args:
        name: the argument's name, for the message.
        value: what was given.
        kind: the type or types that are allowed.
        cure: what it must be and how to get it, as in "must be CURE".

    Raises:
        TypeError: ``value`` is not of ``kind``.
    """
    if not isinstance(value, kind):
        shown = " ".join(reprlib.repr(value).split())
        raise TypeError(f"{name}={shown}: must be {cure}, got {type(value).__name__}")
