"""Progress reaches whoever cannot see a bar: log lines of the logger ``tamis``."""

import logging

import pytest

from tamis.core import progress
from tamis.core.progress import progress_bar
from tests.unit.test_swift_search import search


@pytest.fixture
def clock(monkeypatch):
    """Ten seconds pass at every look."""
    now = [0.0]

    def monotonic():
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", monotonic)


def test_lines_come_every_30_seconds_and_at_the_end(clock, caplog):
    with caplog.at_level(logging.INFO, logger="tamis"):
        assert list(progress_bar(range(8), desc="counting")) == list(range(8))
    assert {record.name for record in caplog.records} == {"tamis"}
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split("/")[0] for line in lines] == ["counting: 3", "counting: 5", "counting: 7", "counting: 8"]
    assert lines[-1].startswith("counting: 8/8 (100 %), ")


def test_a_search_says_its_best_score(clock, caplog):
    with caplog.at_level(logging.INFO, logger="tamis"):
        policy = search(trials=9, optimizer="random")
    assert f"best={policy.search.score:.4g}" in caplog.records[-1].getMessage()
    assert "swift search: " in caplog.records[0].getMessage()


def test_short_work_and_hidden_bars_say_nothing(caplog, clock):
    with caplog.at_level(logging.INFO, logger="tamis"):
        list(progress_bar(range(100), disable=True))
        with progress_bar(total=2) as bar:
            bar.update(1)
    assert not caplog.records


def test_what_is_shown_is_not_logged_too(caplog, clock, capsys):
    with caplog.at_level(logging.INFO, logger="tamis"):
        list(progress_bar(range(50), disable=False))
    assert not caplog.records


def test_an_error_inside_is_not_taken_for_the_end(clock, caplog):
    def fails():
        with progress_bar(total=9) as bar:
            for _ in range(4):
                bar.update(1)
            raise KeyError

    with caplog.at_level(logging.INFO, logger="tamis"), pytest.raises(KeyError):
        fails()
    assert len(caplog.records) == 1
