"""Search-Map-Search: models of single frames, their weights over time, and the mapping network."""

import numpy as np
import pytest
import torch

from tamis.core.rng import numpy_generator
from tamis.search.frames.models import (
    fit_frame_model,
    out_of_fold_logits,
    time_weights,
    weigh,
    weighted_logits,
)
from tamis.search.frames.search import search_frames
from tamis.search.frames.training import MapConfig, pack, train_map
from tamis.transforms.frames.map import make_map
from tamis.transforms.frames.policy import clip_features
from tests.unit.frames_tools import planted


def test_models_are_never_asked_about_what_they_were_fitted_on():
    clips, labels, _ = planted(12)
    fitted = []

    def fit(features, given, seed):
        known = {clip.tobytes() for clip in features}
        fitted.append(len(features))
        assert set(given) == {0, 1, 2}

        def model(clip):
            assert clip.tobytes() not in known
            return np.zeros((len(clip), 3))

        return model

    logits = out_of_fold_logits(clips, labels, fit=fit, folds=3)
    assert fitted == [8, 8, 8]
    assert len(logits) == 12


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_padding_does_not_reach_the_prediction(kind):
    network = make_map(kind, 6, 8, seed=3).eval()
    clips = [numpy_generator(i).standard_normal((m, 6)) for i, m in enumerate((1, 7, 20))]
    features, mask = pack(clips)
    features[~mask] = 1e3
    together = network(features, mask)
    for i, clip in enumerate(clips):
        torch.testing.assert_close(together[i : i + 1], network(*pack([clip])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_the_map_learns_what_can_be_learnt(kind):
    clips, _, starts = planted(80)
    targets = [clip[s : s + 4].mean(0) for clip, s in zip(clips, starts, strict=True)]
    result = train_map(clips, targets, MapConfig(kind=kind, width=32, epochs=25), seed=0)
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert result.score > 0.6
    again = train_map(clips, targets, MapConfig(kind=kind, width=32, epochs=2), seed=5)
    twin = train_map(clips, targets, MapConfig(kind=kind, width=32, epochs=2), seed=5)
    assert all(torch.equal(tensor, twin.weights[name]) for name, tensor in again.weights.items())


def test_training_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    clips, labels, _ = planted(12)
    fit_frame_model(clips, labels, 3)
    train_map(clips, [clip.mean(0) for clip in clips], MapConfig(width=4, epochs=1))
    assert torch.equal(before, torch.get_rng_state())


def test_time_has_the_norm_of_the_content():
    rows = clip_features(numpy_generator(1).standard_normal((50, 8)), np.zeros(8), np.ones(8), 4, 1.0)
    assert rows.shape == (50, 16)
    np.testing.assert_allclose((rows[:, 8:] ** 2).sum(1), 8.0)


def test_time_weights_find_the_part_of_the_clip_that_tells():
    rng = numpy_generator(3)
    labels = np.arange(120) % 3
    logits = [3 * rng.standard_normal((m, 3)) for m in rng.integers(20, 40, size=120)]
    for clip, label in zip(logits, labels, strict=True):
        clip[len(clip) // 2 : len(clip) * 3 // 5, label] += 4.0
    weights = time_weights(logits, labels, bins=10)
    assert weights.argmax() == 5
    assert weights[[0, 1, 2, 3, 7, 8, 9]].max() < 0.25 * weights[5]
    flat = weigh(logits[0], np.full(10, 2.0))
    np.testing.assert_allclose(flat, 2 * logits[0])


def test_the_second_round_is_fitted_where_the_first_saw_something():
    """The class shows in 2 of 30 frames, at the same time in all clips."""
    rng = numpy_generator(6)
    labels = np.arange(90) % 3
    clips = [rng.standard_normal((30, 12)) for _ in labels]
    for clip, label in zip(clips, labels, strict=True):
        clip[19:21, label] += 2.0

    def right(rounds):
        found = weighted_logits(clips, labels, folds=3, bins=10, rounds=rounds)
        return np.mean([clip.mean(0).argmax() == label for clip, label in zip(found, labels, strict=True)])

    assert right(2) > max(right(1) + 0.05, 0.6)
    with pytest.raises(ValueError, match="time_rounds=0"):
        search_frames(clips, labels, 3, folds=2, time_rounds=0)


def test_clips_without_a_frame_where_the_weights_are_are_drawn_evenly():
    clips, labels, _ = planted(12)
    weights = np.zeros(15)
    weights[0] = 1.0
    model = fit_frame_model(
        [clip[:1] for clip in clips], labels, 3, times=weights, epochs=1
    )  # its frame is in the middle
    assert np.isfinite(model(clips[0])).all()
