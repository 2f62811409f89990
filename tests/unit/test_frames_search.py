"""Search-Map-Search end to end on planted clips: out-of-fold models, both searches, the map, resume, the policy."""

import copy
import dataclasses
import functools
import json
import pickle  # noqa: TID251 -- DataLoader workers pickle the selector
import warnings
from itertools import combinations

import numpy as np
import pytest
import torch

import tamis
from tamis import PolicyError, TamisError
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import numpy_generator
from tamis.optimizers.guided_local_search import CosineObjective
from tamis.search.frames.inputs import checked_labels, read_features
from tamis.search.frames.models import (
    model_forwards,
    out_of_fold_logits,
)
from tamis.search.frames.search import search_clip, search_frames
from tamis.search.frames.training import MapConfig
from tamis.search.journal import Journal
from tamis.testing.distributed import run_distributed
from tamis.transforms import ClipView, FrameSelectionCollator, PixelEncoder, UniformFrames
from tamis.transforms.frames.map import make_map
from tamis.transforms.frames.readers import shrink
from tests.reference import frames as slow
from tests.unit.frames_tools import QUICK, planted


@pytest.fixture(scope="module")
def policy():
    clips, labels, _ = planted()
    return search_frames(clips, labels, 4, folds=2, clip_length=5, budget=600, map_config=QUICK, time_waves=1, seed=1)


def test_the_frames_it_chooses_are_the_informative_ones(policy):
    clips, _, starts = planted(30, seed=9)
    chosen = [policy.selector().select(ClipView(20, clip), 4) for clip in clips]
    share = np.mean([((f >= s) & (f < s + 4)).mean() for f, s in zip(chosen, starts, strict=True)])
    uniform = UniformFrames().select(ClipView(20), 4)
    chance = np.mean([((uniform >= s) & (uniform < s + 4)).mean() for s in starts])
    assert share > chance + 0.15
    assert policy.search.score > 0.3
    assert policy.search.budget["evaluations"] <= 48 * 600


def test_stage_one_equals_the_slow_search_where_it_enumerates():
    for seed in range(5):
        logits = 2 * numpy_generator(seed).standard_normal((6, 3))
        frames, cost, spent = search_clip(logits, 1, 2, clip_length=3, budget=400, seed=seed)
        clips = slow.clips(6, 3)
        means = [slow.mean([logits[i] for i in clip]) for clip in clips]
        pairs = [(a, b) for a in range(2) for b in range(a, 2)]
        first = min(pairs, key=lambda pair: slow.mean_logit_cost(means, 1, pair))
        options = [(i, j) for i in clips[first[0]] for j in clips[first[1]]]
        best = min(slow.mean_logit_cost(logits, 1, option) for option in options)
        assert cost == pytest.approx(best, abs=1e-9)
        assert cost == pytest.approx(slow.mean_logit_cost(logits, 1, frames), abs=1e-9)
        assert spent <= 400


@pytest.mark.parametrize(("m", "n", "length"), [(1, 3, 30), (7, 9, 30), (31, 4, 30), (45, 8, 10), (100, 8, 30)])
def test_stage_one_keeps_its_budget_for_any_length(m, n, length):
    logits = numpy_generator(m).standard_normal((m, 4))
    frames, cost, spent = search_clip(logits, 2, n, clip_length=length, budget=700, seed=0)
    assert frames.shape == (n,)
    assert frames.max() < m
    assert spent <= 700
    assert cost == pytest.approx(slow.mean_logit_cost(logits, 2, frames), abs=1e-9)
    others = numpy_generator(m, 1).integers(m, size=(50, n))
    assert cost <= min(slow.mean_logit_cost(logits, 2, other) for other in others) + 1e-9
    with pytest.raises(ValueError, match="budget="):
        search_clip(logits, 2, n, clip_length=length, budget=m)


@pytest.mark.filterwarnings("ignore:search_frames")  # 20 clips to learn from
def test_an_interrupted_search_ends_in_the_same_policy(tmp_path):
    clips, labels, _ = planted(40)
    half = MapConfig(width=16, epochs=10, held_out=0.5)  # 20 clips to compare with uniform frames on
    options = {"folds": 2, "clip_length": 5, "budget": 300, "map_config": half}
    whole = search_frames(clips, labels, 3, **options)
    first = search_frames(clips, labels, 3, out=tmp_path, **options)
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 41
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:17]) + lines[17][:20])
    again = search_frames(clips, labels, 3, out=tmp_path, **options)
    assert whole == first == again == tamis.load_policy(tmp_path)
    assert whole.search == again.search
    logits = (tmp_path / "logits.safetensors").read_bytes()
    with pytest.raises(TamisError, match="journal of another search: budget differ"):
        search_frames(clips, labels, 3, out=tmp_path, **{**options, "budget": 301})
    with pytest.raises(TamisError, match="journal of another search: labels, seed differ"):
        search_frames(clips, labels[::-1], 3, out=tmp_path, seed=1, **options)
    assert (tmp_path / "logits.safetensors").read_bytes() == logits  # refused before anything was kept
    (tmp_path / "journal.jsonl").write_bytes(lines[0][:20])  # killed in its first line
    assert search_frames(clips, labels, 3, out=tmp_path, **options) == whole
    Journal(tmp_path / "other" / "journal.jsonl", {"search": "curriculum"})
    with pytest.raises(TamisError, match="another kind of search, 'curriculum'"):
        search_frames(clips, labels, 3, out=tmp_path / "other", **options)
    assert len(list((tmp_path / "other").iterdir())) == 1


class Brightness:
    """An encoder whose features are the mean grey values times its weight."""

    size = (4, 6)

    def __init__(self, weight=1.0):
        self.weight = weight

    def __call__(self, frames):
        return self.weight * frames.float().mean((1, 2)).add(1.0)

    def digest(self):
        return str(self.weight)


def test_features_are_kept_for_the_same_videos_and_encoder_only(tmp_path):
    rng = numpy_generator(2)
    videos = [torch.from_numpy(rng.integers(0, 255, (6, 3, 4, 6), dtype=np.uint8)) for _ in range(4)]

    def found(videos, encoder, candidates=6):
        return np.stack(read_features(videos, encoder, candidates, tmp_path, 0)[0])

    first = found(videos, Brightness())
    np.testing.assert_array_equal(first, found(videos, Brightness()))
    np.testing.assert_array_equal(2 * first, found(videos, Brightness(2.0)))
    np.testing.assert_array_equal(first[::-1], found(videos[::-1], Brightness()))
    assert found(videos, Brightness(), 3).shape == (4, 3, 6)
    without = type("Bare", (), {"size": (4, 6), "__call__": Brightness.__call__, "weight": 1.0})()
    with pytest.raises(TypeError, match=r"out: the encoder has no digest\(\)"):
        found(videos, without)
    decoder = type("Decoder", (), {"get_frames_at": None})()
    with pytest.raises(TypeError, match=r"out: videos\[1\] is a decoder"):
        found([videos[0], decoder], Brightness())


def constant(features, labels, seed, *, favourite):
    assert 0 <= seed < 2**32
    return lambda clip: np.eye(3)[np.full(len(clip), favourite)] + clip[:, 1:4]


def test_models_of_your_own_are_asked_again_and_their_seeds_differ(tmp_path):
    clips, labels, _ = planted(12)
    fit = [functools.partial(constant, favourite=favourite) for favourite in (0, 1)]
    options = {"folds": 2, "clip_length": 5, "budget": 300, "map_config": MapConfig(width=4, epochs=1)}
    search_frames(clips, labels, 3, fit=fit[0], out=tmp_path, **options)
    assert not (tmp_path / "logits.safetensors").exists()
    with pytest.raises(TamisError, match="journal of another search: data"):
        search_frames(clips, labels, 3, fit=fit[1], out=tmp_path, **options)
    seeds = []

    def noted(features, labels, seed):
        seeds.append(seed)
        return constant(features, labels, seed, favourite=0)

    for seed in (0, 1):
        out_of_fold_logits(clips, labels, fit=noted, folds=3, seed=seed)
    assert len(set(seeds)) == 6


def test_time_bins_0_keeps_all_frames_and_the_budget_counts_all_passes():
    clips, labels, _ = planted(12)
    rng = numpy_generator(5)
    logits = [0.01 * rng.standard_normal((20, 3)) for _ in clips]
    for rows, label in zip(logits, labels, strict=True):
        rows[2] = 5 * np.eye(3)[(label + 1) % 3]  # decided, and wrong
    options = {"logits": logits, "clip_length": 5, "budget": 300, "map_config": MapConfig(width=4, epochs=2)}
    few = search_frames(clips, labels, 3, **options)
    every = search_frames(clips, labels, 3, time_bins=0, **options)
    assert float(few.profile[12]) == 1.0  # frame 2 of 20 is all that may be chosen
    assert float(every.profile[12]) == 0.0
    through_map = 3 * 2 * 11 * 20 + 20  # one clip of 12 is held out
    assert every.search.budget["sample_forwards"] == through_map
    assert model_forwards(clips, 3, 2) == 2 * (12 * 20 + 3 * 40 * 16 * 12 * 2)
    assert model_forwards(clips, 3, 2, trained=False) == 12 * 20


def search_on_a_rank():
    clips, labels, _ = planted(16)
    config = MapConfig(width=4, epochs=1, held_out=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        found = search_frames(clips, labels, 3, folds=2, clip_length=5, budget=300, map_config=config)
    facts = [found.search.config[name] for name in ("unseen_clips", "unseen_loss", "uniform_loss")]
    return [float(tensor.double().sum()) for _, tensor in sorted(found.weights.items())] + facts


def test_distinct_frames_are_the_best_without_repeats(policy):
    repeated = 0
    for seed in range(8):
        clip = planted(1, m=9, seed=seed)[0][0]
        view, selector = ClipView(9, clip), policy.selector(distinct=True)
        chosen = selector.select(view, 3)
        objective = CosineObjective(*selector._rows_and_target(view))
        every = np.array(list(combinations(range(9), 3)))
        assert objective.costs(chosen[None])[0] == pytest.approx(objective.costs(every).min(), abs=1e-9)
        assert len(set(selector.select(view, 9))) == 9
        repeated += len(set(policy.selector().select(view, 3))) < 3
    assert repeated
    tight = dataclasses.replace(policy, budget=2)  # too little for a single step
    assert len(set(tight.selector(distinct=True).select(view, 5))) == 5
    assert pickle.loads(pickle.dumps(selector)).distinct  # noqa: S301


def test_two_processes_find_the_same_policy():
    here = search_on_a_rank()
    assert run_distributed("tests.unit.test_frames_search:search_on_a_rank") == [here, here]


def test_logits_of_your_own_model_and_features_of_your_own_encoder():
    clips, labels, _ = planted(20)
    logits = [clip[:, 1:4] for clip in clips]
    found = search_frames(clips, labels, 3, logits=logits, clip_length=5, budget=300, map_config=QUICK)
    assert found.pixel_encoder() is None
    with pytest.raises(PolicyError, match="pass it"):
        FrameSelectionCollator(found, 3)
    with pytest.raises(ValueError, match="one array"):
        search_frames(clips, labels, 3, logits=logits[:-1], folds=2)


def test_videos_in_policy_out():
    """Pixels to policy to collator: the policy brings its own encoder."""
    rng = numpy_generator(4)
    videos, labels = [], np.arange(20) % 2
    for label in labels:
        clip = rng.integers(0, 60, (12, 3, 16, 24), dtype=np.uint8)
        clip[4:7, :, :, 12 * label : 12 * label + 12] += 150
        videos.append(torch.from_numpy(clip))
    found = search_frames(videos, labels, 2, folds=2, clip_length=4, budget=300, map_config=QUICK)
    assert isinstance(found.pixel_encoder(), PixelEncoder)
    collate = FrameSelectionCollator(found, num_frames=2)
    features = collate.encoder(shrink(videos[0], (32, 48)))
    assert collate.select(videos[0]).tolist() == found.selector().select(ClipView(12, features), 2).tolist()
    assert len(collate.plot(videos[0]).axes) == 5
    with pytest.warns(UserWarning, match="num_frames=6: the policy was searched for 2 frames"):
        apart = FrameSelectionCollator(found, num_frames=6, distinct=True)
    assert all(len(set(apart.select(video).tolist())) == 6 for video in videos)
    with pytest.raises(ValueError, match="distinct=True: is for a FramePolicy"):
        FrameSelectionCollator(UniformFrames(), 2, distinct=True)
    black = torch.zeros(9, 3, 16, 24, dtype=torch.uint8)  # no frame differs from any other
    assert collate.select(black).shape == (2,)
    assert collate.select(black[:1]).tolist() == [0, 0]
    with pytest.raises(PolicyError, match="PixelEncoder is another encoder than the one that the policy was"):
        FrameSelectionCollator(found, num_frames=2, encoder=PixelEncoder.pixels((4, 6)))
    with pytest.raises(PolicyError, match="features of size 24: the policy was searched on size 144"):
        found.check(features=PixelEncoder.pixels((4, 6))(shrink(videos[0], (4, 6))))


def test_a_centred_encoder_sees_what_moves_in_search_files_and_collator(tmp_path):
    """Each clip has a background of its own, brighter than what its class moves."""
    rng = numpy_generator(7)
    videos, labels = [], np.arange(20) % 2
    for label in labels:
        clip = np.repeat(rng.integers(0, 200, (1, 3, 16, 24), dtype=np.uint8), 12, axis=0)
        clip[4:7, :, :, 12 * label : 12 * label + 12] += 40
        videos.append(torch.from_numpy(clip))
    small = [shrink(video, (4, 6)) for video in videos]
    plain, encoder = (PixelEncoder.fit(small, size=(4, 6), dim=2, neighbours=0, centred=c) for c in (False, True))
    np.testing.assert_allclose(encoder(small[0]).mean(0), encoder.mean @ -encoder.components.T, atol=1e-3)
    assert plain.digest() != encoder.digest()
    options = {"folds": 2, "clip_length": 4, "budget": 300, "map_config": QUICK}
    found = search_frames(videos, labels, 2, encoder=encoder, **options)
    found.save(tmp_path)
    loaded = tamis.load_policy(tmp_path)
    assert loaded == found
    assert "thumbnails 4x6 less the clip's mean" in loaded.summary()
    collate = FrameSelectionCollator(loaded, num_frames=2)
    np.testing.assert_array_equal(collate.encoder(small[0]), encoder(small[0]))
    inside = [((frames >= 4) & (frames < 7)).mean() for frames in map(collate.select, videos)]
    assert np.mean(inside) > 0.4  # chance: a quarter
    assert search_frames(videos, labels, 2, centred=True, **options).pixel_encoder().centred
    with pytest.raises(ValueError, match="centred=True: is for the default encoder"):
        search_frames(videos, labels, 2, encoder=encoder, centred=True, **options)


def test_the_policy_survives_files_copies_and_damage(policy, tmp_path):
    policy.save(tmp_path)
    loaded = tamis.load_policy(tmp_path)
    assert loaded == policy
    clip = planted(1, seed=3)[0][0]
    view = ClipView(20, clip)
    chosen = policy.selector().select(view, 4).tolist()
    pickled = pickle.loads(pickle.dumps(loaded.selector()))  # noqa: S301
    for selector in (loaded.selector(), copy.deepcopy(policy.selector()), pickled):
        assert selector.select(view, 4).tolist() == chosen
    assert "Search-Map-Search: 4 frames" in policy.summary()
    assert len(policy.plot(tmp_path / "p.png").axes) == 1
    with pytest.raises(PolicyError, match="features of size 5: the policy was searched on size 6"):
        policy.selector().select(ClipView(20, clip[:, :5]), 4)
    document = json.loads((tmp_path / "policy.json").read_text())
    for key, value in [("width", 8), ("map", "cnn"), ("budget", 0), ("feature_size", 7), ("time_waves", 3)]:
        wrong = copy.deepcopy(document)
        wrong["spec"][key] = value
        (tmp_path / "policy.json").write_text(json.dumps(wrong))
        with pytest.raises(PolicyError):
            tamis.Policy.load(tmp_path, allow_edited=True)


def test_permuting_features_permutes_the_choice_without_time():
    clips, labels, _ = planted(24)
    found = search_frames(clips, labels, 4, folds=2, clip_length=5, budget=300, map_config=QUICK, time_waves=0)
    order = numpy_generator(8).permutation(20)
    for clip in clips[:5]:
        left = found.selector().select(ClipView(20, clip), 4)
        right = found.selector().select(ClipView(20, clip[order]), 4)
        assert sorted(order[right]) == left.tolist()


def test_refusals():
    clips, labels, _ = planted(12)
    for change, message in [
        ({"labels": labels[:-1]}, "labels: got 11 for 12 videos"),
        ({"labels": np.zeros(12, int)}, "the same label"),
        ({"labels": labels - 1}, r"labels\[0\]=-1: must be an integer >= 0"),
        ({"labels": [*labels[:-1], -100]}, r"labels\[11\]=-100: .* leave videos without a label out"),
        ({"labels": [*labels[:-1], None]}, r"labels\[11\]=None: .* leave videos without a label out"),
        ({"labels": labels.astype(float)}, r"labels\[0\]=0.0: .*astype\(int\)"),
        ({"labels": list("abc") * 4}, r"labels\[0\]='a': .* encode the names: names, labels = np.unique"),
        ({"labels": np.array(list("abc") * 4)}, "encode the names"),
        ({"labels": np.eye(3)[labels]}, r"labels\[0\]=list: .* np.argmax\(labels, axis=1\)"),
        ({"labels": list(torch.eye(3)[labels])}, r"labels\[0\]=Tensor: .* np.argmax"),
        ({"labels": labels[:, None]}, r"labels\[0\]=list: .* np.ravel\(labels\)"),
        ({"labels": 2 * labels}, "no video is of class 1, but there is class 4; number the 3 classes"),
        ({"labels": labels + 1}, "no video is of class 0"),
        ({"labels": [*labels[:-1], 3]}, "class 3 has one video; must be at least two"),
        ({"logits": [clip[:, :2] for clip in clips]}, "have 2 classes, but there is a label 2"),
        ({"logits": [clip[:, :3] + np.nan for clip in clips]}, r"logits\[0\]: must be finite"),
        ({"logits": [*(clip[:, :3] for clip in clips[:-1]), clips[0][:, :4]]}, "with the same C"),
        ({"folds": 1}, "folds=1"),
        ({"folds": 7}, "must be at least 14"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"clip_length": 0}, "clip_length=0"),
        ({"encoder": PixelEncoder.pixels()}, "features already"),
        ({"videos": [*clips[:-1], np.full((3, 6), np.nan)]}, "must be finite"),
        ({"videos": [*clips[:-1], np.zeros((3, 5))]}, "must be finite"),
        ({"budget": 10}, "budget=10"),
    ]:
        options = {"videos": clips, "labels": labels, "num_frames": 3, "folds": 2, **change}
        with pytest.raises(ValueError, match=message):
            search_frames(**options)
    with pytest.raises(TypeError, match="labels=None: must be one integer a video"):
        search_frames(clips, None, 3)
    with pytest.raises(TypeError, match=r"map_config=\{'width': 16\}: must be a MapConfig.*, got dict"):
        search_frames(clips, labels, 3, map_config={"width": 16})
    for given in (list(labels), torch.tensor(labels), list(torch.tensor(labels)), labels.astype(np.uint8)):
        assert checked_labels(given, 12, 2, fitted=True).tolist() == labels.tolist()
    assert checked_labels(2 * labels, 12, 2, fitted=False).tolist() == (2 * labels).tolist()
    for wrong in ({"kind": "cnn"}, {"epochs": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"held_out": 0.9}):
        with pytest.raises(ValueError):
            MapConfig(**wrong)
    with pytest.raises(ValueError, match="multiple of 4"):
        make_map("mlp", 3, 6)
