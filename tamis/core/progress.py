"""One progress bar for everything that lasts longer than a few seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tamis.core.distributed import rank

__all__ = ["progress_bar"]


def progress_bar(
    iterable: Iterable[Any] | None = None, *, total: int | None = None, desc: str = "", **kwargs: Any
) -> Any:
    """A `tqdm` bar, shown on rank 0 only, silent where output is not a terminal unless ``disable=False``.

    Bars shorter than a second are never drawn (``delay``).
    """
    from tqdm.auto import tqdm

    kwargs.setdefault("disable", True if rank() != 0 else None)
    return tqdm(iterable, total=total, desc=desc, delay=1.0, leave=False, **kwargs)
