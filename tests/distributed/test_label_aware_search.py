"""search_label_aware under torchrun: two processes share each pass and find the same policy as one."""

import json

from tamis.testing import run_distributed
from tests.unit.label_aware_toys import search


def test_two_processes_find_the_same_policy(tmp_path):
    results = run_distributed("tests.unit.label_aware_toys:distributed_search", out=str(tmp_path / "two"))
    alone = search(out=tmp_path / "one")
    for found in results:
        assert found == {"triples": alone.triples.tolist(), "rewards": alone.rewards.tolist()}
    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("one", "two")]
    assert journals[0] == journals[1]
    assert (tmp_path / "two" / "policy.json").exists()
    assert json.loads(journals[0].splitlines()[1])["trial"] == 0
