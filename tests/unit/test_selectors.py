"""The selectors that need no search: exact frames on clips where the right answer is plain."""

import copy
import pickle  # noqa: TID251 -- DataLoader workers pickle the selector

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.core.rng import numpy_generator
from tamis.transforms.frames.selectors import (
    ClipView,
    ConfidentFrames,
    FarthestFrames,
    PairwiseFrames,
    RandomFrames,
    SceneFrames,
    SegmentFrames,
    UniformFrames,
)

HEAD = torch.nn.Linear(4, 3).requires_grad_(False)
with torch.no_grad():
    HEAD.weight.copy_(torch.eye(3, 4))
    HEAD.bias.zero_()
SELECTORS = [
    UniformFrames(),
    SegmentFrames(),
    RandomFrames(),
    ConfidentFrames(HEAD),
    PairwiseFrames(HEAD),
    FarthestFrames(),
    SceneFrames(),
]


def view(m, seed=0):
    return ClipView(m, numpy_generator(seed).standard_normal((m, 4)), key=(seed, 1))


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 40), n=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_selector_gives_n_sorted_frames_and_no_repeats_where_there_are_enough(m, n, seed):
    for selector in SELECTORS:
        frames = selector.select(view(m, seed), n)
        assert frames.dtype == np.int64
        assert frames.shape == (n,)
        assert frames.tolist() == sorted(frames.tolist())
        assert frames.min() >= 0
        assert frames.max() < m
        assert len(set(frames.tolist())) == min(n, m)
        twin = pickle.loads(pickle.dumps(copy.deepcopy(selector)))  # noqa: S301
        assert twin.select(view(m, seed), n).tolist() == frames.tolist()


def test_short_clips_repeat_the_last_frame():
    for selector in SELECTORS:
        assert selector.select(view(3), 5).tolist() == [0, 1, 2, 2, 2]
        assert selector.select(view(1), 2).tolist() == [0, 0]


def test_uniform_takes_the_middles():
    assert UniformFrames().select(ClipView(100), 4).tolist() == [12, 37, 62, 87]
    assert UniformFrames().select(ClipView(5), 5).tolist() == [0, 1, 2, 3, 4]


def test_segments_hold_one_frame_each_and_cover_all():
    seen = set()
    for key in range(200):
        frames = SegmentFrames().select(ClipView(11, key=(key,)), 3)
        assert frames[0] < 3 <= frames[1] < 7 <= frames[2]
        seen |= set(frames.tolist())
    assert seen == set(range(11))


def test_random_frames_are_uniform():
    counts = np.zeros(10)
    for key in range(2000):
        counts[RandomFrames().select(ClipView(10, key=(key,)), 3)] += 1
    assert np.abs(counts / 2000 - 0.3).max() < 0.04


def test_confident_frames_are_those_of_the_largest_probability():
    features = np.zeros((9, 4))
    features[[2, 5, 7], [0, 1, 2]] = (3.0, 9.0, 6.0)
    assert ConfidentFrames(HEAD).select(ClipView(9, features), 2).tolist() == [5, 7]


def test_pairs_avoid_a_second_copy_of_a_confident_frame():
    features = np.zeros((9, 4))
    features[[2, 3, 7], [0, 0, 1]] = (9.0, 9.0, 6.0)
    features[:, 3] = 0.1
    assert ConfidentFrames(HEAD).select(ClipView(9, features), 2).tolist() == [2, 3]
    assert PairwiseFrames(HEAD).select(ClipView(9, features), 2).tolist() == [2, 7]


def test_farthest_frames_visit_every_cluster():
    features = np.repeat(np.array([[0.0, 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0]]), 5, axis=0)
    frames = FarthestFrames().select(ClipView(15, features), 3)
    assert sorted(frames // 5) == [0, 1, 2]


def test_scenes_give_one_frame_each():
    features = np.repeat(np.arange(3.0)[:, None] * np.ones(4), [4, 9, 3], axis=0)
    assert SceneFrames().select(ClipView(16, features), 3).tolist() == [1, 8, 14]
    assert len(set(SceneFrames().select(ClipView(16, features), 6).tolist())) == 6


def test_refusals():
    with pytest.raises(ValueError, match="needs features"):
        FarthestFrames().select(ClipView(5), 2)
    with pytest.raises(ValueError, match="one row a frame"):
        FarthestFrames().select(ClipView(5, np.zeros((4, 2))), 2)
    with pytest.raises(ValueError, match="frame 1 is not finite"):
        SceneFrames().select(ClipView(3, np.array([[0.0], [np.nan], [0.0]])), 2)
    with pytest.raises(ValueError, match="n=0"):
        UniformFrames().select(ClipView(5), 0)
    with pytest.raises(ValueError, match="head: must give finite logits"):
        ConfidentFrames(lambda x: x[:, 0]).select(view(5), 2)
