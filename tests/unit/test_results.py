"""RESULTS.md is what the committed JSON says."""

import pytest

from benchmarks.tables import HERE, page, paired, tables


def test_results_page_is_generated():
    assert (HERE / "RESULTS.md").read_text() == page(), "run `make results` and commit benchmarks/RESULTS.md"


def test_rows_under_one_parent_share_a_table():
    figures = {"t": {"a": {"x": 1, "y": 0.123456}, "b": {"x": 2, "z": [0.1, 0.2]}}, "seeds": [1, 2, 3]}
    expected = ["| t | x | y | z |\n|---|---|---|---|", "| a | 1 | 0.1235 |  |", "| b | 2 |  | [0.1, 0.2] |", ""]
    assert list(tables(figures)) == expected


def test_paired_differences_use_the_shared_seeds():
    runs = {"full": {"0": 0.7, "1": 0.8, "2": 0.9}, "DimReg 0.2": {"0": 0.71, "1": 0.83}}
    figures = {name: {s: {"test": v, "share": 0.5} for s, v in values.items()} for name, values in runs.items()}
    row = paired(figures)["full"]
    assert row["seeds"] == 3
    assert row["DimReg 0.2 minus it"] == pytest.approx(0.02)
    assert row["95 % +-"] == pytest.approx(12.71 * 0.01)  # sd 0.0141 over the root of 2
