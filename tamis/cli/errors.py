"""Errors of the user's making, which are one line, and bugs, which keep their traceback."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tamis.core.errors import TamisError

__all__ = ["PACKAGE", "UsageError", "is_the_users", "listed"]

PACKAGE = Path(__file__).parents[1]


class UsageError(TamisError):
    """The command line or a file that it names is wrong."""


def is_the_users(error: Exception) -> bool:
    """True for errors that tamis raises on purpose: its own types, and argument errors raised in its own files.

    A `TypeError` counts only from ``core``, where arguments are checked: elsewhere it is more likely a bug.
    """
    if isinstance(error, TamisError):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    file = Path(frame.tb_frame.f_code.co_filename) if frame is not None else Path()
    if isinstance(error, TypeError):
        return file.is_relative_to(PACKAGE / "core")
    return isinstance(error, (ImportError, ValueError)) and file.is_relative_to(PACKAGE)


def listed(names: Iterable[object]) -> str:
    """The names in alphabetical order, or "none"."""
    return ", ".join(sorted(map(str, names))) or "none"
