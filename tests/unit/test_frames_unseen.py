"""Search-Map-Search: is a policy better than uniform frames, on clips that its map never saw?"""

import numpy as np
import pytest

from tamis.core.errors import NoEffectWarning
from tamis.core.rng import numpy_generator
from tamis.search.frames.search import search_frames
from tamis.search.frames.training import MapConfig
from tamis.search.frames.unseen import compare_with_uniform, scaled_losses
from tests.unit.frames_tools import QUICK, planted


@pytest.fixture(scope="module")
def policy():
    clips, labels, _ = planted()
    return search_frames(clips, labels, 4, folds=2, clip_length=5, budget=600, map_config=QUICK, time_waves=1, seed=1)


COMPARED = {"folds": 2, "clip_length": 5, "budget": 300, "time_waves": 1, "seed": 1}


def test_a_policy_that_is_better_than_uniform_says_by_how_much():
    clips, labels, _ = planted(96)
    config = MapConfig(width=16, epochs=10, held_out=0.25)
    found = search_frames(clips, labels, 4, map_config=config, **COMPARED)  # warnings are errors
    facts = found.search.config
    assert facts["unseen_clips"] == 24
    assert facts["unseen_loss"] < facts["uniform_loss"] - 0.1 < np.log(3)
    assert f"on 24 unseen clips: loss {facts['unseen_loss']:.4g} against " in found.summary()
    assert "nothing shows" not in found.summary()
    none = search_frames(clips[:30], labels[:30], 4, map_config=MapConfig(width=4, epochs=1, held_out=0.2), **COMPARED)
    assert none.search.config["unseen_loss"] is None
    assert "too few unseen clips (6) to tell" in none.summary()


def test_a_policy_that_is_no_better_than_uniform_warns():
    clips, labels, _ = planted(96)
    labels = numpy_generator(4).permutation(labels)
    config = MapConfig(width=16, epochs=5, held_out=0.25)
    with pytest.warns(NoEffectWarning, match=r"on 24 unseen clips .* loss of .*, uniform ones of .* UniformFrames\(\)"):
        found = search_frames(clips, labels, 4, map_config=config, **COMPARED)
    assert found.search.config["unseen_loss"] == pytest.approx(np.log(3), abs=0.1)
    assert found.summary().endswith("nothing shows that they are better")


def test_the_comparison_does_not_mind_how_loud_the_model_is(policy):
    clips, labels, _ = planted(30, seed=9)
    logits = [clip[:, 1:4] for clip in clips]
    found = [
        compare_with_uniform(policy.selector(), clips, [by * rows for rows in logits], labels, tuple(range(20)), 4)
        for by in (0.01, 1.0, 1000.0)
    ]
    assert found[0].loss == pytest.approx(found[1].loss) == pytest.approx(found[2].loss)
    assert found[0].loss < found[0].uniform
    assert 20 < found[0].evaluations <= 20 * (policy.budget + 2)
    assert found[0].forwards == 20 * 20
    wrong = -np.eye(3)[labels[:20]]
    np.testing.assert_allclose(scaled_losses(wrong, labels[:20]), np.log(3))
    np.testing.assert_allclose(scaled_losses(-wrong, labels[:20]), 0.0, atol=1e-9)
    short = [clip[:3] for clip in clips]
    same = compare_with_uniform(policy.selector(), short, [rows[:3] for rows in logits], labels, tuple(range(20)), 4)
    assert same.loss == same.uniform
