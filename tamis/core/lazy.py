"""Packages whose names load when they are first used, so that ``tamis --help`` does not wait for torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(package: str, homes: Mapping[str, str], subpackages: Collection[str] = ()) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that imports what it exports when it is asked for.

    Args:
        package: the package's own name.
        homes: name -> the module that has it.
        subpackages: modules of the package that are attributes of it without having been imported.

    Returns:
        A function of a name; what it finds is kept in the package.

    Raises:
        AttributeError: the package exports no such name.
    """

    def find(name: str) -> Any:
        if name in subpackages:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
