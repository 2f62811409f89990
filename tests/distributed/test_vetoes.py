"""Vetoes under torchrun: two processes share each pass and find the same policy as one."""

from tamis.testing import run_distributed
from tests.unit.veto_toys import distributed_search


def test_two_processes_find_the_same_vetoes(tmp_path):
    results = run_distributed("tests.unit.veto_toys:distributed_search", out=str(tmp_path / "two"))
    alone = distributed_search(str(tmp_path / "one"))
    assert results == [alone, alone]
    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("one", "two")]
    assert journals[0] == journals[1]
