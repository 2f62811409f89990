"""After the trials: how noisy a score is, and whether the best law is better than uniform sampling when run again.

The best of 40 noisy scores is the luckiest as much as the best. So its law and the uniform one are run again, under the
same new seeds; the means of these runs are what is reported, and a gain within the standard error of the paired
differences is none (with two runs: both must be better). With an objective that scores on a fresh half of the held-out
data (``confirm``), the law is first chosen there among three: the uniform law, the best of the plain ones, the best of
all; further runs, which choose nothing, are reported. A law of which a run failed is out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tamis.core.distributed import broadcast_object, parallel_map, world_size
from tamis.core.errors import TamisError
from tamis.search.journal import Journal, Record
from tamis.search.swift.trial import Objective, Trial, objective_name

__all__ = ["Finalist", "Verdict", "finalists", "no_effect", "rerun", "settled"]

_FIRST = 1_000_000  # number of the first run after the trials: `trials` may grow, these stay apart
_REPORT = 2_000_000  # of the first run that is reported and chose nothing


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

    @property
    def mean(self) -> float | None:
        """Mean score of the runs; None if one of them failed, or there are none."""
        return float(np.mean(self.scores)) if self.runs and len(self.scores) == len(self.runs) else None


@dataclass(frozen=True)
class Verdict:
    """What the runs after the search say.

    Attributes:
        law: that the search returns.
        facts: ``score`` and ``uniform_score`` (means of runs that chose nothing), ``search_score`` (of the law that the
            search found best, in its trial), ``score_noise`` (standard deviation of one run).
        runs: all that were made.
        doubt: why a law that the search had found is not returned; None if it is, or if the search found none.
    """

    law: Finalist
    facts: dict[str, float | None]
    runs: tuple[Record, ...]
    doubt: str | None


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
    laws: Sequence[Finalist],
    journal: Journal,
    trial: Trial,
    repeats: int,
    objective: Objective | None,
    *,
    spread: bool,
    report: bool = False,
) -> list[Finalist]:
    """Run each of ``laws`` ``repeats`` times; what the journal has already is not run again.

    Args:
        laws: the finalists.
        journal: of the search.
        trial: trains and scores.
        repeats: runs of each; run r of every law has the same seed.
        objective: that scores, in place of the search's; None: the search's.
        spread: several processes: True deals the runs to them.
        report: of an ``objective``: under further seeds than those by which the law was chosen.
    """
    first = _REPORT if report else _FIRST
    kind: Record = {"run": "repeat"}
    if objective is not None:  # another one's runs in this folder are not taken for this one's
        kind = {"run": "report" if report else "confirm", "objective": objective_name(objective)}
    jobs = [(first + 1000 * k + r, r, law) for k, law in enumerate(laws) for r in range(repeats)]
    wanted = {number: {"point": law.record["point"], **kind} for number, _, law in jobs}

    def known(number: int) -> bool:
        record = journal.records.get(number, {})
        return all(record.get(key) == value for key, value in wanted[number].items())

    missing = [job for job in jobs if not known(job[0])]
    step = world_size() if spread else 1

    def run(job: tuple[int, int, Finalist]) -> Record:
        return trial(first + job[1], np.array(job[2].record["point"]), objective=objective)

    for at in range(0, len(missing), step):
        part = missing[at : at + step]
        found = parallel_map(run, part) if spread else broadcast_object([run(job) for job in part])
        journal.append([{"trial": n, **wanted[n], **r} for (n, _, _), r in zip(part, found, strict=True)])
    return [Finalist(law.name, law.record, tuple(journal.records[n] for n, _, of in jobs if of is law)) for law in laws]


def settled(
    laws: Sequence[Finalist],
    best: Finalist,
    run: Callable[..., list[Finalist]],
    *,
    choose: bool = False,
    report: bool = False,
) -> Verdict:
    """Run again what was found, and believe it if it is better than uniform sampling by more than noise.

    Args:
        laws: finalists, the uniform law first.
        best: the one of highest score in the search.
        run: (laws, report=bool) -> the laws with their runs.
        choose: first choose the best of ``laws`` by runs of its own, in place of ``best``.
        report: the runs that are reported are of a ``confirm`` objective.

    Raises:
        TamisError: none of the runs gave a finite score.
    """
    found, ran = best, []
    if choose:
        ran = run(laws, report=False)
        if all(law.mean is None for law in ran):
            raise TamisError("confirm: of each law a run gave no finite score, so nothing can be chosen by it")
        best = max(ran, key=lambda law: -np.inf if law.mean is None else law.mean)  # of equals the plainest
    uniform = best.record["trial"] == laws[0].record["trial"]
    pair = run([laws[0]] if uniform else [laws[0], best], report=report)
    if all(law.mean is None for law in pair):
        raise TamisError("the search's best law and the uniform one failed when they were run again; see the journal")
    doubt = None if uniform else _doubt(*pair)
    law = pair[0] if uniform or doubt else pair[1]
    if uniform and found.record["trial"] != laws[0].record["trial"]:
        scores = ", ".join(f"{one.name} {_shown(one.mean)}" for one in ran)
        doubt = f"{found.name} was best in the search, but by confirm= uniform sampling is ({scores})"
    facts = {
        "search_score": found.record["score"], "score": law.mean, "uniform_score": pair[0].mean,
        "score_noise": _noise([*ran, *pair]),
    }  # fmt: skip
    return Verdict(law, facts, tuple(record for one in [*ran, *pair] for record in one.runs), doubt)


def no_effect(scored: Sequence[Record], doubt: str | None) -> str:
    """Why the search ends in the uniform law, and what to try.

    Args:
        scored: trials with a score, the uniform one first.
        doubt: of the `Verdict`.
    """
    if doubt is not None:
        return (
            f"{doubt}, so the policy is uniform: more repeats=, longer trials or more held-out samples may tell them "
            "apart; on clean data there may be nothing to find"
        )
    score, count = scored[0]["score"], len(scored) - 1
    if count and all(record["score"] == score for record in scored):
        return (
            f"all {count + 1} trials scored {score:.6g}, so the policy is uniform: the objective does not depend on "
            "what is drawn; is the model that it scores the one that it trains, and its learning rate large enough?"
        )
    return (
        f"none of {count} laws scored above uniform sampling ({score:.6g}), so the policy is uniform: more trials, "
        "longer ones, or more held-out samples may find one; on clean data there may be none"
    )


def _doubt(uniform: Finalist, best: Finalist) -> str | None:
    """Why ``best`` is not to be believed; None if it is."""
    if uniform.mean is None:
        return None
    said = f"{best.name} scored {_shown(best.record['score'])} in the search, but"
    if best.mean is None:
        return f"{said} a run of it failed when it was run again"
    gains = np.subtract(best.scores, uniform.scores)  # run r of both has the same seed
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
    if gains.mean() > error:
        return None
    return (
        f"{said} run again {len(gains)} times beside uniform sampling it scored {best.mean:.6g} against "
        f"{uniform.mean:.6g}, a gain of {gains.mean():+.2g} with a standard error of {error:.2g}"
    )


def _shown(score: float | None) -> str:
    return "failed" if score is None else f"{score:.6g}"


def _noise(laws: Sequence[Finalist]) -> float | None:
    """Standard deviation of the score of one law over its runs, pooled over ``laws``; None with too few runs."""
    groups = [law.scores for law in laws if len(law.scores) > 1]
    if not groups:
        return None
    freedom = sum(len(scores) - 1 for scores in groups)
    return float(np.sqrt(sum((len(scores) - 1) * np.var(scores, ddof=1) for scores in groups) / freedom))
