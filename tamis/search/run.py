"""One run of a search, whatever it searches: its folder and the lock on it, its journal, and the end on every rank.

A search is a frozen dataclass of settings and a function that does its work inside a `SearchRun`::

    with SearchRun("mine", config, out, data={"numbers": fingerprint(numbers)}) as run:
        records = run.trials(evaluate, propose, trials=config.trials, initial=8)
        best = max(records, key=lambda record: record["score"])
        return run.finish(MyPolicy(..., search=run.info(best["score"], {"trials": config.trials})))

The settings are what the journal is known by and what the policy remembers: a field added to the dataclass is compared
and stored without another line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, TypeVar

from tamis.core.distributed import broadcast_object, rank
from tamis.core.errors import TamisError
from tamis.core.files import remove_leftovers
from tamis.core.types import PathOrStr
from tamis.policy.base import Policy, SearchInfo
from tamis.search.journal import Evaluate, Journal, Propose, Record, refuse_other, run_trials

__all__ = ["SearchConfig", "SearchRun", "adjustable", "flat", "identity"]

_ADJUSTABLE = "adjustable"
_PATIENCE = 10.0  # seconds: the workers of a process that was killed hold its lock until they notice

Value = TypeVar("Value")
Found = TypeVar("Found", bound=Policy)


class SearchConfig(Protocol):
    """A frozen dataclass of JSON values, tuples and further such dataclasses, with a ``seed``."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""
        ...


def adjustable(default: Value) -> Value:
    """The default of a setting that no finished trial depends on: a journal goes on under another value of it."""
    return field(default=default, metadata={_ADJUSTABLE: True})


def identity(config: SearchConfig) -> dict[str, Any]:
    """The settings that a journal is known by: ``dataclasses.asdict`` without those that are `adjustable`."""
    free = {entry.name for entry in fields(config) if entry.metadata.get(_ADJUSTABLE)}
    return {name: value for name, value in asdict(config).items() if name not in free}


def flat(config: SearchConfig) -> dict[str, bool | int | float | str | None]:
    """``dataclasses.asdict`` in scalars, as `SearchInfo.config` has them: ``{"agent.steps": 3000, "rounds.0": 4}``."""
    found: dict[str, bool | int | float | str | None] = {}

    def add(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple)):
            add(name, dict(enumerate(value)))
        else:
            found[name] = value  # type: ignore[assignment]  # what is no scalar is refused when the policy is saved

    for name, value in asdict(config).items():
        add(name, value)
    return found


class SearchRun:
    """A search at work in a folder: a context manager that every rank enters.

    On entry the folder is locked, and refused if it holds another search, before anything is kept in it. Leaving gives
    the lock back. In one process or many, every rank must make the same calls in the same order.

    Args:
        kind: the search's name, e.g. ``"swift"``.
        config: its settings.
        out: the folder, made if it is not there; None keeps the journal in memory and saves nothing.
        data: JSON values that fix the trials and are no settings, e.g. fingerprints of data and model. `open` adds
            those that are known later only.

    Attributes:
        folder: ``out`` as a `Path`, or None.

    Raises:
        TamisError: on entry: the folder holds another search, or another process searches there now.
    """

    def __init__(
        self, kind: str, config: SearchConfig, out: PathOrStr | None = None, *, data: Mapping[str, Any] | None = None
    ) -> None:
        self.config = config
        self.folder = None if out is None else Path(out)
        self._known = {"search": kind, **identity(config), **(data or {})}
        self._path = None if self.folder is None else self.folder / "journal.jsonl"
        self._journal: Journal | None = None
        self._lock: int | None = None

    def __enter__(self) -> SearchRun:
        problem = None
        if self.folder is not None and rank() == 0:
            try:
                self._lock = _locked(self.folder)
                remove_leftovers(self.folder, age=0 if self._lock is not None else 3600.0)  # of killed searches
            except (TamisError, OSError) as error:
                problem = str(error)
        _raise_on_all(problem)
        try:
            if self._path is not None:
                refuse_other(self._path, self._known)
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    def open(self, **data: Any) -> Journal:
        """The journal; made at the first call, with these values beside those of ``data``.

        Raises:
            TamisError: the folder has the journal of another search, or a damaged one.
        """
        if self._journal is None:
            self._journal = Journal(self._path, {**self._known, **data})
        return self._journal

    def trials(
        self,
        evaluate: Evaluate,
        propose: Propose,
        *,
        trials: int,
        initial: int,
        parallel: int = 1,
        spread: bool = True,
        desc: str = "search",
    ) -> list[Record]:
        """The records of all trials, in order: `run_trials` on this run's journal.

        Args:
            evaluate: (number, point) -> a JSON record with ``"score"``, higher is better, None if it failed.
            propose: (records so far, count) -> points [count, D]; a function of its arguments only.
            trials: number of trials, >= 1; those in the journal are not run again.
            initial: number of trials that do not depend on others' scores.
            parallel: size of the later batches.
            spread: several processes: True deals trials to them; False runs every trial on all of them together.
            desc: name on the progress bar.
        """
        journal = self.open()
        return run_trials(
            evaluate, propose, journal, trials=trials, initial=initial, parallel=parallel, spread=spread, desc=desc
        )

    def info(
        self, score: float | None, budget: Mapping[str, int], **facts: bool | int | float | str | None
    ) -> SearchInfo:
        """What the policy remembers of the search: its settings and seed, what it cost and what it found.

        Args:
            score: of the chosen trial, finite.
            budget: what it cost, e.g. ``{"trials": 40, "sample_forwards": 10_000}``; a backward pass counts 2.
            facts: what was found besides, kept among the settings.
        """
        return SearchInfo(
            seed=self.config.seed, budget=dict(budget), score=score, config={**flat(self.config), **facts}
        )

    def finish(self, policy: Found, *, also: Callable[[Path], object] | None = None) -> Found:
        """Save the policy in the folder; no rank returns before every rank can load it.

        Args:
            policy: the search's result, on every rank.
            also: writes what is kept beside it, given the folder; called on rank 0, before the policy is saved.

        Returns:
            ``policy``.

        Raises:
            TamisError: rank 0 could not write; on all ranks.
        """
        problem = None
        if self.folder is not None and rank() == 0:
            try:
                if also is not None:
                    also(self.folder)
                policy.save(self.folder)
            except OSError as error:
                problem = f"{self.folder}: the policy could not be saved ({error}); the journal is whole: search again"
        _raise_on_all(problem)
        return policy

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _raise_on_all(problem: str | None) -> None:
    """Rank 0's problem, on every rank; also a point that no rank passes before rank 0 has come to it."""
    problem = broadcast_object(problem)
    if problem is not None:
        raise TamisError(problem)


def _locked(folder: Path) -> int | None:
    """A descriptor of ``folder`` that holds the lock on it until it is closed, or its process ends.

    None where there are no such locks (Windows, some network drives).

    Raises:
        TamisError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.1)
                continue
            os.close(descriptor)
            raise TamisError(
                f"{folder}: another process searches there now; wait for its end, or use another out="
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
