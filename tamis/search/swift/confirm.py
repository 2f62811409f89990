"""After the trials: how noisy a score is, and whether the best law is better on held-out data that nobody chose by.

The best of 40 noisy scores is the luckiest as much as the best. So its law is run again with other seeds, whose spread
is the noise of a score; and with an objective that scores on a fresh half of the held-out data (``confirm``), the
winner is decided there, once, among three: the uniform law, the best of the plain ones, the best of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tamis.core.distributed import broadcast_object, parallel_map, world_size
from tamis.search.journal import Journal, Record
from tamis.search.swift.trial import Objective, Trial

__all__ = ["Finalist", "decided", "finalists", "noise_of", "rerun"]

_FIRST = 1_000_000  # number of the first run after the trials: `trials` may grow, these stay apart


@dataclass(frozen=True)
class Finalist:
    """A law that is run again.

    Attributes:
        name: ``"uniform"``, the name of a plain law, or ``"searched"``.
        record: of its trial.
        runs: of it after the search, in order.
    """

    name: str
    record: Record
    runs: tuple[Record, ...] = ()

    @property
    def scores(self) -> list[float]:
        """Finite scores of the runs."""
        return [run["score"] for run in self.runs if run["score"] is not None]


def finalists(records: Sequence[Record], first: Sequence[str]) -> list[Finalist]:
    """The uniform law, the best plain one and the best of all, each once, the plainest first.

    Args:
        records: of all trials, in order; at least one has a score.
        first: names of the first of them, ``"uniform"`` at the head.
    """
    scored = [record for record in records if record["score"] is not None]
    plain = [record for record in records[1 : len(first)] if record["score"] is not None]
    chosen = [records[0], *sorted(plain, key=lambda r: -r["score"])[:1], max(scored, key=lambda r: r["score"])]
    unique = {record["trial"]: record for record in chosen}
    return [Finalist(first[n] if n < len(first) else "searched", record) for n, record in unique.items()]


def rerun(
    laws: Sequence[Finalist], journal: Journal, trial: Trial, repeats: int, objective: Objective | None, *, spread: bool
) -> list[Finalist]:
    """Run each of ``laws`` ``repeats`` times; what the journal has already is not run again.

    Args:
        laws: the finalists.
        journal: of the search.
        trial: trains and scores.
        repeats: runs of each; run r of every law has the same seed.
        objective: that scores, in place of the search's; None: the search's.
        spread: several processes: True deals the runs to them.
    """
    kind = "repeat" if objective is None else "confirm"
    jobs = [(_FIRST + 1000 * k + r, r, law) for k, law in enumerate(laws) for r in range(repeats)]
    wanted = {number: {"point": law.record["point"], "run": kind} for number, _, law in jobs}

    def known(number: int) -> bool:
        record = journal.records.get(number, {})
        return all(record.get(key) == value for key, value in wanted[number].items())

    missing = [job for job in jobs if not known(job[0])]
    step = world_size() if spread else 1

    def run(job: tuple[int, int, Finalist]) -> Record:
        return trial(_FIRST + job[1], np.array(job[2].record["point"]), objective=objective)

    for at in range(0, len(missing), step):
        part = missing[at : at + step]
        found = parallel_map(run, part) if spread else broadcast_object([run(job) for job in part])
        journal.append([{"trial": n, **wanted[n], **r} for (n, _, _), r in zip(part, found, strict=True)])
    return [Finalist(law.name, law.record, tuple(journal.records[n] for n, _, of in jobs if of is law)) for law in laws]


def noise_of(laws: Sequence[Finalist]) -> float | None:
    """Standard deviation of the score of one law over its runs, pooled over ``laws``; None with too few runs.

    Args:
        laws: finalists that were run again.
    """
    groups = [law.scores for law in laws if len(law.scores) > 1]
    if not groups:
        return None
    freedom = sum(len(scores) - 1 for scores in groups)
    return float(np.sqrt(sum((len(scores) - 1) * np.var(scores, ddof=1) for scores in groups) / freedom))


def decided(laws: Sequence[Finalist]) -> Finalist:
    """The law of highest mean score over its runs; of equals the plainest.

    Args:
        laws: finalists that were run again.
    """
    return max(laws, key=lambda law: float(np.mean(law.scores)) if law.scores else -np.inf)
