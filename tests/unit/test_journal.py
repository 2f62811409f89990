"""The trial journal: what is on disk after each trial, what is refused, and how a search goes on from it."""

import json

import numpy as np
import pytest

from tamis.core.errors import TamisError
from tamis.search.journal import Journal, run_trials

CONFIG = {"search": "toy", "seed": 1, "share": 0.25}


def record(number, score=0.5):
    return {"trial": number, "point": [0.1, 0.2], "score": score}


def test_records_come_back_exactly(tmp_path):
    path = tmp_path / "deep" / "journal.jsonl"
    journal = Journal(path, CONFIG)
    journal.append([record(0, 0.1 + 0.2), record(1, None)])
    journal.append([record(2, 1e-300)])
    assert (
        Journal(path, CONFIG).records
        == journal.records
        == {0: record(0, 0.1 + 0.2), 1: record(1, None), 2: record(2, 1e-300)}
    )
    assert len(path.read_text().splitlines()) == 4


def test_every_cut_of_the_last_line_drops_that_trial_only(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, CONFIG)
    journal.append([record(0)])
    whole = path.read_bytes()
    journal.append([record(1)])
    longer = path.read_bytes()
    for length in range(len(whole), len(longer)):
        path.write_bytes(longer[:length])
        again = Journal(path, CONFIG)
        assert list(again.records) == [0]
        again.append([record(1)])
        assert path.read_bytes() == longer


def test_a_cut_header_begins_anew(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, CONFIG)
    header = path.read_bytes()
    path.write_bytes(header[:20])
    assert Journal(path, CONFIG).records == {}
    assert path.read_bytes() == header


def test_another_searches_journal_and_damage_are_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, CONFIG).append([record(0), record(1)])
    before = path.read_bytes()
    with pytest.raises(TamisError, match=r"seed differ \(seed=1 there, 2 here\)"):
        Journal(path, {**CONFIG, "seed": 2})
    assert path.read_bytes() == before
    lines = before.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:9] + b"\n" + lines[2])
    with pytest.raises(TamisError, match="damaged"):
        Journal(path, CONFIG)
    path.write_text('{"epoch": 1}\n')
    with pytest.raises(TamisError, match="no journal"):
        Journal(path, CONFIG)


def test_nan_is_never_written(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl", CONFIG)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append([record(0, float("nan"))])


class Search:
    """A toy search that counts its evaluations and can be stopped before one."""

    def __init__(self, journal, stop_before=None):
        self.journal, self.stop_before, self.evaluated = journal, stop_before, []

    def evaluate(self, number, point):
        if number == self.stop_before:
            raise KeyboardInterrupt
        self.evaluated.append(number)
        return {"score": float(-np.abs(point).sum())}

    def propose(self, past, count):  # depends on all scores before, as an optimizer does
        base = sum(r["score"] for r in past)
        return np.array([[base + len(past), k] for k in range(count)], dtype=float)

    def run(self, trials=11, parallel=3):
        return run_trials(
            self.evaluate, self.propose, self.journal, trials=trials, initial=4, parallel=parallel, desc="toy"
        )


@pytest.mark.parametrize("parallel", [1, 3])
def test_stopping_before_any_trial_and_going_on_changes_nothing(tmp_path, parallel):
    whole = Search(Journal(None, CONFIG)).run(parallel=parallel)
    assert [r["trial"] for r in whole] == list(range(11))
    for stop in range(11):
        path = tmp_path / f"{stop}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            Search(Journal(path, CONFIG), stop_before=stop).run(parallel=parallel)
        assert len(path.read_text().splitlines()) == stop + 1  # the header and each trial that was done
        again = Search(Journal(path, CONFIG))
        assert again.run(parallel=parallel) == whole
        assert again.evaluated == list(range(stop, 11))


def test_more_trials_go_on_from_fewer(tmp_path):
    path = tmp_path / "journal.jsonl"
    Search(Journal(path, CONFIG)).run(trials=6)
    more = Search(Journal(path, CONFIG))
    assert more.run(trials=11) == Search(Journal(None, CONFIG)).run(trials=11)
    assert more.evaluated == [6, 7, 8, 9, 10]
    assert json.loads(path.read_text().splitlines()[0])["config"] == CONFIG
