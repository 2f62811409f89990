"""The journal of a search: one JSON line a trial, forced to disk, from which an interrupted search goes on.

The first line says which search it is; another search's journal is refused, and so is a file that is none. Each line
ends in a checksum of its own (``"crc32"``; journals of release 0.1 have none). A last line that was cut off by a crash
is dropped and its trial done again. Trials are pure functions of (configuration, number, scores before), so a search
that was killed ends in the same result, bit for bit.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tamis.core.distributed import broadcast_object, gather_objects, parallel_map, rank, world_size
from tamis.core.errors import TamisError
from tamis.core.files import write_atomically
from tamis.core.progress import progress_bar
from tamis.policy.base import fingerprint

if TYPE_CHECKING:
    from tqdm import tqdm as Bar

__all__ = ["Evaluate", "Journal", "Propose", "Record", "refuse_other", "run_trials"]

FORMAT = "tamis.journal"
_CHECK = "crc32"
_CURE = "restore the file from a copy, remove the line and those after it, or move the file away to begin anew"
Record: TypeAlias = dict[str, Any]
Evaluate: TypeAlias = Callable[[int, np.ndarray], Record]
Propose: TypeAlias = Callable[[list[Record], int], np.ndarray]


class Journal:
    """Records by trial number, in memory and (with ``path``) on disk.

    On several processes rank 0 reads and writes; every rank must make the journal and call `append`.

    Args:
        path: the file, made with its folder if it is not there; None keeps the records in memory.
        config: JSON values that fix the result of every trial (not the number of trials).

    Raises:
        TamisError: the file is the journal of another configuration, is damaged before its last line, or is no journal;
            or the ranks were given different configurations.
    """

    def __init__(self, path: Path | None, config: dict[str, Any]) -> None:
        self.path = path
        self.config: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True, allow_nan=False))
        _same_on_all_ranks(self.config)
        problem, self.records = None, {}
        if path is not None and rank() == 0:
            try:
                self.records = self._open(path)
            except (TamisError, OSError) as error:
                problem = str(error)
        self.records, problem = broadcast_object((self.records, problem))
        if problem is not None:
            raise TamisError(problem)

    def append(self, records: list[Record]) -> None:
        """Keep finished trials; each record has its number under ``"trial"``. On disk when this returns."""
        self.records.update({record["trial"]: record for record in records})
        if self.path is not None and rank() == 0:
            with self.path.open("ab") as file:
                file.write(b"".join(_line(record) for record in records))
                file.flush()
                os.fsync(file.fileno())

    def _open(self, path: Path) -> dict[int, Record]:
        """Read the records, or begin the file."""
        header = {"format": FORMAT, "config": self.config, "sha256": fingerprint(self.config)}
        content = path.read_bytes() if path.exists() else b""
        if b"\n" not in content and _line(header).startswith(content):  # none, or cut off in its first line
            write_atomically(path, _line(header))
            return {}
        lines = content.splitlines(keepends=True)
        rows = [_parse(line) for line in lines]
        first = rows[0]
        if first is None or first.get("format") != FORMAT or not {"config", "sha256"} <= first.keys():
            raise TamisError(f"{path}: is no journal of a search, or is damaged; move it away to begin anew")
        if first["sha256"] != header["sha256"]:
            raise TamisError(_difference(path, first["config"], self.config))
        if first["config"] != self.config:
            raise TamisError(f"{path}: line 1 is damaged; {_CURE}")
        needed = {"trial", "point", "score"} & (rows[1] or {}).keys() if len(rows) > 1 else set()
        checked = _CHECK in first
        good = [_whole(row, needed, checked) for row in rows[1:]]
        if good and not good[-1]:  # cut off by a crash: its trial is done again
            os.truncate(path, sum(map(len, lines[:-1])))
            good, rows = good[:-1], rows[:-1]
        if not all(good):
            raise TamisError(f"{path}: line {good.index(False) + 2} is damaged; {_CURE}")
        return {row["trial"]: {k: v for k, v in row.items() if k != _CHECK} for row in rows[1:] if row is not None}


def refuse_other(path: Path, known: dict[str, Any]) -> None:
    """Refuse the journal of another search as soon as a part of the configuration is known, before anything is kept.

    Args:
        path: the journal's file, which need not be there.
        known: part of the configuration of `Journal`.

    Raises:
        TamisError: the journal at ``path`` has another value.
    """
    problem = None
    if rank() == 0 and path.exists():
        with path.open("rb") as file:
            row = _parse(file.readline()) or {}
        there, known = row.get("config", {}), json.loads(json.dumps(known))
        theirs = {key: there[key] for key in known if key in there}
        if row.get("format") == FORMAT and theirs != known:  # `Journal` knows damage
            problem = _difference(path, theirs, known)
    problem = broadcast_object(problem)
    if problem is not None:
        raise TamisError(problem)


def _difference(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """What to say of the journal of another search."""
    cure = "use another out=, or the same configuration, to go on"
    if theirs.get("search") != ours.get("search"):
        return f"{path}: journal of another kind of search, {theirs.get('search')!r}; {cure}"
    if theirs.keys() != ours.keys():
        only = [", ".join(sorted(a.keys() - b.keys())) or "nothing" for a, b in ((theirs, ours), (ours, theirs))]
        return (
            f"{path}: journal of another release of tamis, earlier or later, with other settings ({only[0]} only "
            f"there, {only[1]} only here); finish the search with the release that began it, or use another out="
        )
    keys = sorted(k for k in ours if theirs[k] != ours[k])
    first = keys[0] if keys else "?"
    if keys == ["model"]:
        cure += "; a model whose first weights are drawn anew in each run is another one: seed before you build it"
    if (path.parent / "policy.json").exists():
        cure += f"; what the finished search found: tamis.load_policy({str(path.parent)!r})"
    return (
        f"{path}: journal of another search: {', '.join(keys)} differ "
        f"({first}={theirs.get(first)!r} there, {ours.get(first)!r} here); {cure}"
    )


def run_trials(
    evaluate: Evaluate,
    propose: Propose,
    journal: Journal,
    *,
    trials: int,
    initial: int,
    parallel: int = 1,
    spread: bool = True,
    desc: str = "search",
) -> list[Record]:
    """Run (or go on with) a search of ``trials`` trials and return their records in order.

    The first ``initial`` trials are proposed at once, the others in batches of ``parallel``, whatever the number of
    processes. A trial is journaled as soon as it is done (on N processes, N at a time).

    Args:
        evaluate: (number, point) -> a JSON record with ``"score"``, higher is better, None if it failed.
        propose: (records so far, count) -> points [count, D].
        journal: where the records are kept; those in it are not run again.
        trials: number of trials, >= 1.
        initial: number of trials that do not depend on others' scores.
        parallel: size of the later batches.
        spread: several processes: True deals trials to them; False runs every trial on all of them together.
        desc: name on the progress bar.
    """
    with progress_bar(total=trials, desc=desc) as bar:
        first = 0
        while first < trials:
            count = initial if first == 0 else parallel
            numbers = list(range(first, min(first + count, trials)))
            missing = [n for n in numbers if n not in journal.records]
            _advance(bar, journal, len(numbers) - len(missing))
            if missing:
                past = [journal.records[n] for n in range(first)]
                points = broadcast_object(propose(past, count) if rank() == 0 else np.empty(0))
            step = world_size() if spread else 1
            for at in range(0, len(missing), step):
                chunk = [(n, points[n - first]) for n in missing[at : at + step]]
                if spread:
                    records = parallel_map(lambda item: evaluate(*item), chunk)
                else:
                    records = broadcast_object([evaluate(*item) for item in chunk])
                journal.append(
                    [{"trial": n, "point": p.tolist(), **r} for (n, p), r in zip(chunk, records, strict=True)]
                )
                _advance(bar, journal, len(chunk))
            first += count
    return [journal.records[n] for n in range(trials)]


def _advance(bar: Bar, journal: Journal, count: int) -> None:
    scores = [record["score"] for record in journal.records.values() if record["score"] is not None]
    if scores:
        bar.set_postfix(best=f"{max(scores):.4g}")
    bar.update(count)


def _same_on_all_ranks(config: dict[str, Any]) -> None:
    """Refuse ranks that were started with different settings, data or models: their trials would not fit together."""
    configs = gather_objects(config)
    for number, other in enumerate(configs):
        keys = sorted(key for key in config.keys() | other.keys() if configs[0].get(key) != other.get(key))
        if keys:
            raise TamisError(
                f"ranks 0 and {number} were given different searches: {', '.join(keys)} differ "
                f"({keys[0]}={configs[0].get(keys[0])!r} and {other.get(keys[0])!r}); give every process the same "
                "seed, data and model"
            )


def _line(record: Record) -> bytes:
    return json.dumps({**record, _CHECK: _checksum(record)}, sort_keys=True, allow_nan=False).encode() + b"\n"


def _checksum(record: Record) -> str:
    text = json.dumps({k: v for k, v in record.items() if k != _CHECK}, sort_keys=True, allow_nan=False)
    return f"{zlib.crc32(text.encode()):08x}"


def _whole(row: Record | None, needed: set[str], checked: bool) -> bool:
    """True for a trial's line as it was written; without a checksum, as far as that can be told."""
    if row is None or (checked and _CHECK not in row):
        return False
    return type(row.get("trial")) is int and needed <= row.keys()


def _parse(line: bytes) -> Record | None:
    """The object on a whole line whose checksum, if it has one, fits; else None."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
        fits = isinstance(row, dict) and (_CHECK not in row or row[_CHECK] == _checksum(row))
    except ValueError:
        return None
    return row if fits else None
