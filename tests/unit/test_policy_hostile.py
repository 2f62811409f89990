"""Small files that would cost much: refused before anything of that size is made."""

import json
import resource
import shutil
import time
from pathlib import Path

import pytest

import tamis
from tamis import PolicyError
from tamis.policy.io import _own_digest
from tests.unit.test_policy_fuzz import HOSTILE

GOLDEN = sorted(path.parent for path in (Path(__file__).parents[1] / "golden" / "frames").rglob("policy.json"))
HUGE = [8192, 2 * 10**7, 10**8, 2**31, 2**40, 2**62, 2**63 - 1]
MEGABYTES, SECONDS = 200, 2.0


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("source", GOLDEN, ids=lambda path: path.name)
def test_a_resealed_frame_policy_costs_little_or_is_refused(tmp_path, source):
    tamis.load_policy(source)
    document = json.loads((source / "policy.json").read_text())
    loaded = refused = 0
    for name in document["spec"]:
        for value in [*HUGE, [2**20, 2**20], "mlp", "transformer", *HOSTILE]:
            for kind in ("mlp", "transformer"):
                folder = tmp_path / "policy"
                shutil.copytree(source, folder)
                spec = {**document["spec"], "map": kind, name: value}
                edited = {**document, "spec": spec}
                edited["sha256"] = _own_digest(json.loads(json.dumps(edited)))
                (folder / "policy.json").write_text(json.dumps(edited))
                before, start = peak(), time.monotonic()
                try:
                    tamis.load_policy(folder)
                    loaded += 1
                except PolicyError:
                    refused += 1
                assert time.monotonic() - start < SECONDS, (name, value)
                assert peak() - before < MEGABYTES, (name, value)
                shutil.rmtree(folder)
    assert refused > 300
    assert loaded > 5


def test_a_policy_that_would_search_for_ever_is_refused(tmp_path):
    source = GOLDEN[-1]
    shutil.copytree(source, tmp_path / "policy")
    document = json.loads((source / "policy.json").read_text())
    document["spec"]["budget"] = 2**62
    document["sha256"] = _own_digest(document)
    (tmp_path / "policy" / "policy.json").write_text(json.dumps(document))
    with pytest.raises(PolicyError, match=r"budget=4611686018427387904: must be in \[2, 1000000\]"):
        tamis.load_policy(tmp_path / "policy")
