"""RESULTS.md is what the committed JSON says."""

from benchmarks.tables import HERE, page, tables


def test_results_page_is_generated():
    assert (HERE / "RESULTS.md").read_text() == page(), "run `make results` and commit benchmarks/RESULTS.md"


def test_rows_under_one_parent_share_a_table():
    figures = {"t": {"a": {"x": 1, "y": 0.123456}, "b": {"x": 2, "z": [0.1, 0.2]}}, "seeds": [1, 2, 3]}
    expected = ["| t | x | y | z |\n|---|---|---|---|", "| a | 1 | 0.1235 |  |", "| b | 2 |  | [0.1, 0.2] |", ""]
    assert list(tables(figures)) == expected
