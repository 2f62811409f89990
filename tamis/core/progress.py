"""One progress bar for everything that lasts longer than a few seconds; log lines where nobody could see it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, TypeVar, overload

from tamis.core.distributed import rank

__all__ = ["LOG_EVERY", "ProgressBar", "progress_bar"]

Item = TypeVar("Item")
Seen = TypeVar("Seen", covariant=True)

LOG_EVERY = 30.0  # seconds between two log lines of one bar

_logger = logging.getLogger("tamis")


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
    """A `tqdm` bar on a terminal; elsewhere a line every 30 s to the logger ``tamis`` (level INFO). On rank 0 only.

    Bars shorter than a second are never drawn, work shorter than 30 s is never logged.

    Args:
        iterable: what to iterate over; without one the bar is told by ``update``.
        total: number of steps, if ``iterable`` has no length.
        desc: the words before the bar.
        disable: True hides it, False shows it also where output is not a terminal; None shows it on terminals only.
    """
    from tqdm.auto import tqdm

    hidden = True if rank() != 0 and disable is None else disable
    bar: Any = tqdm(iterable, total=total, desc=desc, delay=1.0, leave=False, disable=hidden)
    if bar.disable and disable is None and rank() == 0:
        length = total if total is not None else getattr(iterable, "__len__", lambda: None)()
        bar = _Logged(iterable, length, desc)
    shown: ProgressBar[Item] = bar
    return shown


class _Logged:
    """Stands in for a bar that nobody would see: counts, and says so in the log now and then."""

    def __init__(self, iterable: Iterable[Any] | None, total: int | None, desc: str) -> None:
        self.iterable, self.total, self.desc = iterable, total, desc or "work"
        self.count, self.postfix = 0.0, ""
        self.began = self.last = time.monotonic()
        self.spoke = False

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable or ():
            yield item
            self.update()
        self.close()

    def __enter__(self) -> _Logged:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def update(self, n: float = 1) -> None:
        self.count += n
        now = time.monotonic()
        if now - self.last >= LOG_EVERY:
            self.last, self.spoke = now, True
            self._say()

    def set_postfix(self, *, refresh: bool = True, **shown: object) -> None:
        self.postfix = "".join(f", {name}={value}" for name, value in shown.items())

    def close(self) -> None:
        """The last line, where there were others."""
        if self.spoke:
            self.spoke = False
            self._say()

    def _say(self) -> None:
        of = f"/{self.total} ({100 * self.count / self.total:.0f} %)" if self.total else ""
        _logger.info("%s: %g%s, %.0f s%s", self.desc, self.count, of, time.monotonic() - self.began, self.postfix)
