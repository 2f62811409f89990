"""One progress bar for everything that lasts longer than a few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, overload

from tamis.core.distributed import rank

__all__ = ["ProgressBar", "progress_bar"]

Item = TypeVar("Item")
Seen = TypeVar("Seen", covariant=True)


class ProgressBar(AbstractContextManager["ProgressBar[Seen]"], Protocol[Seen]):
    """What tamis asks of a `tqdm` bar."""

    def __iter__(self) -> Iterator[Seen]:
        """The items, each counted when the next one is asked for."""
        ...

    def update(self, n: float = 1) -> object:
        """Count ``n`` more."""
        ...

    def set_postfix(self, *, refresh: bool = True, **shown: object) -> None:
        """Show values behind the bar."""
        ...


@overload
def progress_bar(
    iterable: Iterable[Item], *, total: int | None = None, desc: str = "", disable: bool | None = None
) -> ProgressBar[Item]: ...
@overload
def progress_bar(
    iterable: None = None, *, total: int | None = None, desc: str = "", disable: bool | None = None
) -> ProgressBar[int]: ...
def progress_bar(
    iterable: Iterable[Item] | None = None, *, total: int | None = None, desc: str = "", disable: bool | None = None
) -> ProgressBar[Item] | ProgressBar[int]:
    """A `tqdm` bar, shown on rank 0 only. Bars shorter than a second are never drawn.

    Args:
        iterable: what to iterate over; without one the bar is told by ``update``.
        total: number of steps, if ``iterable`` has no length.
        desc: the words before the bar.
        disable: True hides it, False shows it also where output is not a terminal; None shows it on terminals only.
    """
    from tqdm.auto import tqdm

    hidden = True if rank() != 0 and disable is None else disable
    bar: ProgressBar[Item] = tqdm(iterable, total=total, desc=desc, delay=1.0, leave=False, disable=hidden)
    return bar
