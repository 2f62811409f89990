"""Every search returns on every rank only when every rank can load its policy from the folder."""

import time
from pathlib import Path

import pytest

import tamis
from tamis.core import rank
from tamis.policy.base import Policy
from tamis.search import search_frames
from tamis.testing import run_distributed
from tests.unit import frames_tools, label_aware_toys, test_curriculum_search, test_swift_search


def swift(out):
    return test_swift_search.search(trials=10, optimizer="random", out=out)


def label_aware(out):
    return label_aware_toys.search(iterations=12, warmup=10, out=out)


def frames(out):
    clips, labels, _ = frames_tools.planted(12)
    return search_frames(clips, labels, 3, folds=2, clip_length=5, budget=200, map_config=frames_tools.QUICK, out=out)


def curriculum(out):
    return test_curriculum_search.search(out)[0]


def loads_at_once(kind, out):
    """Whether the policy that a search gave is in its folder the moment it returns; rank 0 is slow to save."""
    save = Policy.save

    def slowly(self, folder, *arguments, **options):
        if Path(folder) == Path(out):
            time.sleep(0.5)
        return save(self, folder, *arguments, **options)

    Policy.save = slowly
    try:
        found = {"swift": swift, "label_aware": label_aware, "frames": frames, "curriculum": curriculum}[kind](out)
        return [rank(), tamis.load_policy(out) == found]
    finally:
        Policy.save = save


@pytest.mark.filterwarnings("ignore::tamis.core.errors.NoEffectWarning")
@pytest.mark.parametrize("kind", ["swift", "label_aware", "frames", "curriculum"])
def test_every_rank_can_load_the_policy_when_the_search_returns(kind, tmp_path):
    found = run_distributed("tests.distributed.test_search_finish:loads_at_once", kind=kind, out=str(tmp_path / kind))
    assert found == [[0, True], [1, True]]
