"""Packages that only some parts need: what is missing is named with the extra that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["missing", "needs"]


def missing(extra: str, what: str, error: ImportError) -> ImportError:
    """The error to raise in place of a bare one.

    Args:
        extra: of tamis, e.g. ``"search"``.
        what: what was asked for.
        error: of the import.
    """
    package = (error.name or "a package").partition(".")[0]
    return ImportError(f"{what}: needs {package} ({error}); pip install 'tamis[{extra}]'", name=error.name)


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Imports inside it that fail say which extra brings the package.

    Args:
        extra: of tamis, e.g. ``"search"``.
        what: what was asked for.

    Raises:
        ImportError: one of the imports failed.
    """
    try:
        yield
    except ImportError as error:
        raise missing(extra, what, error) from error
