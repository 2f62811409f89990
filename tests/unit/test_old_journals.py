"""Journals of release 0.1 (commit 49adeda): a search goes on from them to the same result, or refuses them by name.

`tests/golden/journals` was written by that release with the calls below.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tamis
from tamis.core.errors import TamisError
from tamis.search import search_frames
from tests.unit import label_aware_toys, test_curriculum_search, test_swift_search
from tests.unit.frames_tools import QUICK, planted

JOURNALS = Path(__file__).parents[1] / "golden" / "journals"


def frames(out, **options):
    clips, labels, _ = planted(24)
    return search_frames(clips, labels, 3, folds=2, clip_length=5, budget=300, map_config=QUICK, out=out, **options)


def half(kind, folder):
    """The journal of an old search that was interrupted in the midst of a line; its lines."""
    lines = (JOURNALS / kind / "journal.jsonl").read_bytes().splitlines(keepends=True)
    keep = len(lines) // 2
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:keep]) + lines[keep][:25])
    return lines[:keep]


def test_swift_goes_on_to_the_law_that_the_old_release_found(tmp_path):
    lines = half("swift", tmp_path)
    policy = test_swift_search.search(out=tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)[: len(lines)] == lines
    old = tamis.load_policy(JOURNALS / "swift" / "found")
    assert policy == test_swift_search.search()
    assert policy.law == old.law
    assert policy.tables.keys() == old.tables.keys()
    for name in policy.tables.keys() - {"profile"}:
        assert torch.equal(policy.tables[name], old.tables[name])
    torch.testing.assert_close(policy.tables["profile"], old.tables["profile"])  # summed in another order now
    assert policy.search.budget == old.search.budget
    assert policy.search.score == old.search.score
    with pytest.raises(TamisError, match="journal of another search: seed differ"):
        test_swift_search.search(out=tmp_path, seed=4)


def test_label_aware_goes_on_to_the_policy_that_the_old_release_found(tmp_path):
    lines = half("label_aware", tmp_path)
    policy = label_aware_toys.search(out=tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)[: len(lines)] == lines
    old = tamis.load_policy(JOURNALS / "label_aware" / "found")
    torch.testing.assert_close(policy.rewards, old.rewards, atol=1e-4, rtol=1e-3)  # a network's, on another machine
    assert (policy.triples == old.triples).float().mean() > 0.95


def test_frames_go_on_from_kept_logits_and_an_old_journal(tmp_path):
    shutil.copy(JOURNALS / "frames" / "logits.safetensors", tmp_path)
    lines = half("frames", tmp_path)
    policy = frames(tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)[: len(lines)] == lines
    old = tamis.load_policy(JOURNALS / "frames" / "found")
    assert torch.equal(policy.profile, old.profile)
    assert np.isclose(policy.search.score, old.search.score, atol=0.02)


def test_the_curriculum_refuses_what_it_would_misread(tmp_path):
    half("curriculum", tmp_path)
    before = (tmp_path / "journal.jsonl").read_bytes()
    message = r"another release of tamis, earlier or later, .*lookahead_lr.*finish the search with the release"
    with pytest.raises(TamisError, match=message):
        test_curriculum_search.search(tmp_path)
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert json.loads(before.splitlines()[0])["config"]["agent"].startswith("AgentConfig(")
