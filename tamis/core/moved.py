"""Names that moved: the old import goes on working for a release and says what to write."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["moved"]


def moved(old: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose names live elsewhere now.

    Args:
        old: the module's own name.
        names: name -> the module that has it now.

    Returns:
        A function of a name. It warns (`FutureWarning`) with the import to write.

    Raises:
        AttributeError: the module never had that name.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(f"{old}.{name} moved: write `from {names[name]} import {name}`", FutureWarning, stacklevel=2)
        return getattr(import_module(names[name]), name)

    return find
