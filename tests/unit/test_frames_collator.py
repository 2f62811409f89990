"""FrameSelectionCollator: the tensors real video models want, the two passes, the cache and every kind of bad input."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tamis.core.errors import NoEffectWarning, TamisError
from tamis.transforms import (
    FarthestFrames,
    FrameSelectionCollator,
    PixelEncoder,
    SceneFrames,
    SegmentFrames,
    UniformFrames,
    VideoError,
)
from tests.unit.video_tools import decode_all, encode, pictures

GRID = Path(__file__).parents[3] / "shared" / "data" / "grid_s1" / "clips.parquet"


@pytest.fixture(scope="module")
def clips():
    return [encode(pictures(count)) for count in (30, 12, 2)]


def small_model(name):
    import transformers as hf

    common = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    common |= {"image_size": 32, "num_frames": 4, "num_labels": 3}
    if name == "videomae":
        return hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(**common, patch_size=8, tubelet_size=2))
    if name == "timesformer":
        return hf.TimesformerForVideoClassification(hf.TimesformerConfig(**common, patch_size=8))
    return hf.VivitForVideoClassification(hf.VivitConfig(**common, tubelet_size=[2, 8, 8]))


def processor(name):
    import transformers as hf

    kind = {"videomae": "VideoMAEVideoProcessor", "timesformer": "TimesformerVideoProcessor"}
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return getattr(hf, kind.get(name, "VivitVideoProcessor"))(**size)


@pytest.mark.parametrize("name", ["videomae", "timesformer", "vivit"])
def test_models_take_the_batch_as_it_is(name, clips):
    collate = FrameSelectionCollator(FarthestFrames(), 4, processor(name))
    batch = collate([{"video": clip, "label": i} for i, clip in enumerate(clips)])
    assert batch["pixel_values"].shape == (3, 4, 3, 32, 32)
    out = small_model(name)(**batch)
    assert out.logits.shape == (3, 3)
    assert bool(torch.isfinite(out.loss))
    out.loss.backward()


def test_chosen_frames_are_exactly_those_of_the_file(clips):
    collate = FrameSelectionCollator(SegmentFrames(), 4, seed=3)
    for clip in clips:
        batch = collate([(clip, 1)])
        wanted = decode_all(clip)[batch["frame_indices"][0].numpy()]
        np.testing.assert_array_equal((batch["pixel_values"][0] * 255).round().numpy(), wanted)
    assert FrameSelectionCollator(UniformFrames(), 4)([(clips[2], 0)])["frame_indices"].tolist() == [[0, 1, 1, 1]]


def test_videos_of_different_sizes_need_a_processor(clips):
    other = encode(pictures(9, 64, 48))
    with pytest.raises(TamisError, match="differ in size"):
        FrameSelectionCollator(UniformFrames(), 4)([(clips[0], 0), (other, 1)])
    batch = FrameSelectionCollator(UniformFrames(), 4, processor("videomae"))([(clips[0], 0), (other, 1)])
    assert batch["pixel_values"].shape == (2, 4, 3, 32, 32)


def test_a_draw_depends_on_seed_epoch_and_clip_only(clips, tmp_path):
    def frames(seed, epoch, clip):
        collate = FrameSelectionCollator(SegmentFrames(), 4, seed=seed)
        collate.set_epoch(epoch)
        return collate.select(clip).tolist()

    assert frames(0, 0, clips[0]) == frames(0, 0, clips[0])
    for folder in ("here", "there"):  # nor on where the file lies
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.mp4").write_bytes(clips[0])
        assert frames(0, 1, tmp_path / folder / f"{folder}.mp4") == frames(0, 1, clips[0])
    assert frames(0, 0, clips[0]) != frames(0, 0, clips[0] + b"free")
    draws = [frames(seed, epoch, clips[0]) for seed in range(3) for epoch in range(3)]
    assert len({tuple(draw) for draw in draws}) > 5


def test_drawing_the_same_frames_each_epoch_is_said(clips):
    collate = FrameSelectionCollator(SegmentFrames(), 4)
    batch = [(clip, 0) for clip in clips]
    collate(batch)
    with pytest.warns(NoEffectWarning, match="set_epoch was never called"):
        collate(batch)
    collate(batch)  # said once
    told = FrameSelectionCollator(SegmentFrames(), 4)
    draws = []
    for epoch in range(4):
        told.set_epoch(epoch)
        draws.append(str(told(batch)["frame_indices"].tolist()))
    assert len(set(draws)) > 1
    assert told.epoch == copy.deepcopy(told).epoch == 3
    for _ in range(2):
        FrameSelectionCollator(UniformFrames(), 4)(batch)  # draws nothing
    short = FrameSelectionCollator(SegmentFrames(), 4)
    for _ in range(3):
        short([(clips[2], 0)])  # of two frames nothing can be drawn


class Decoder:
    """What a torchcodec decoder is to a collator."""

    def __init__(self, frames):
        self.frames, self.asked = frames, []

    def __len__(self):
        return len(self.frames)

    def get_frames_at(self, indices):
        self.asked += indices
        return SimpleNamespace(data=self.frames[indices])


def test_clips_with_the_same_ends_never_share_features(tmp_path):
    first, second = torch.zeros(2, 20, 3, 24, 32, dtype=torch.uint8)
    first[5] = second[13] = 200  # both begin and end black
    collate = FrameSelectionCollator(SceneFrames(), 3, cache_dir=tmp_path)
    with pytest.raises(TypeError, match="is a decoder, which does not say what file it reads; pass paths or bytes"):
        collate.select(Decoder(first))
    assert collate.select(first).tolist() != collate.select(second).tolist()
    named = Decoder(first)
    named._hf_encoded = {"path": None, "bytes": b"first"}
    collate.select(named)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    frames = FrameSelectionCollator(SegmentFrames(), 3, seed=1).select(Decoder(first))
    assert frames.tolist() == FrameSelectionCollator(SegmentFrames(), 3, seed=1).select(Decoder(first)).tolist()


def test_a_clip_is_named_only_for_selectors_that_draw():
    keys = []

    class Mine(UniformFrames):
        def pick(self, view, n):
            keys.append(view.key)
            return super().pick(view, n)

    decoder = Decoder(torch.zeros(20, 3, 24, 32, dtype=torch.uint8))
    frames = FrameSelectionCollator(Mine(), 3)([(decoder, 0)])["frame_indices"]
    assert decoder.asked == frames[0].tolist()
    Mine.draws = True
    collate = FrameSelectionCollator(Mine(), 3, seed=5)
    for clip in (decoder, Decoder(torch.ones(20, 3, 24, 32, dtype=torch.uint8))):
        collate([(clip, 0)])
    assert keys[0] == (0,)
    assert keys[1][:2] == keys[2][:2] == (5, 0)
    assert keys[1] != keys[2]
    with pytest.warns(NoEffectWarning):
        collate([(decoder, 0)])


def test_sparse_candidates_bound_what_is_read(clips):
    seen = []

    class Watching:
        size = (8, 12)

        def __call__(self, frames):
            seen.append(tuple(frames.shape))
            return frames.float().flatten(1)

    collate = FrameSelectionCollator(SceneFrames(), 4, encoder=Watching(), candidates=6)
    chosen = collate.select(clips[0])
    assert seen == [(6, 3, 8, 12)]
    assert set(chosen) <= {2, 7, 12, 17, 22, 27}


def test_the_cache_is_used_and_survives_a_cut_off_file(clips, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(clips[0])
    cache = tmp_path / "cache"
    plain = FrameSelectionCollator(SceneFrames(), 4).select(path)
    calls = []

    class Counting:
        size = (12, 16)

        def __init__(self):
            self.inner = PixelEncoder.pixels(self.size)

        def digest(self):
            return self.inner.digest()

        def __call__(self, frames):
            calls.append(1)
            return self.inner(frames)

    def select(source):
        return FrameSelectionCollator(SceneFrames(), 4, encoder=Counting(), cache_dir=cache).select(source)

    assert select(path).tolist() == select(path).tolist() == plain.tolist()
    assert len(calls) == 1
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    assert select(path).tolist() == plain.tolist()
    assert len(calls) == 2
    path.write_bytes(clips[1])  # another video under the same name
    assert select(path).max() < 12
    assert len(calls) == 3
    with pytest.raises(TypeError, match="has no digest"):
        FrameSelectionCollator(SceneFrames(), 4, encoder=Bare(), cache_dir=cache)


class Bare:
    size = (4, 4)

    def __call__(self, frames):
        return torch.full((len(frames), 2), float("nan"))


def test_bad_input_is_named(clips):
    collate = FrameSelectionCollator
    for build, kind, message in [
        (lambda: collate(UniformFrames(), 4, short="error")([(clips[2], 0)]), VideoError, "has 2 frames; num_frames"),
        (lambda: collate(SceneFrames(), 2, encoder=Bare())([(clips[0], 0)]), VideoError, "not finite"),
        (lambda: collate(UniformFrames(), 4)([{"clip": clips[0]}]), KeyError, "remove_unused_columns=False"),
        (lambda: collate(UniformFrames(), 4)([clips[0]]), TypeError, "must be a mapping or a pair"),
        (lambda: collate("uniform", 4), TypeError, "must be a FramePolicy or a FrameSelector"),
        (lambda: collate(UniformFrames(), 0), ValueError, "num_frames=0"),
        (lambda: collate(UniformFrames(), 4, candidates=3), ValueError, "candidates=3"),
        (lambda: collate(UniformFrames(), 4, short="pad"), ValueError, "short='pad'"),
        (lambda: collate(UniformFrames(), 4, on_error="ignore"), ValueError, "on_error='ignore'"),
        (lambda: collate(UniformFrames(), 4, backend="cv2"), ValueError, "backend='cv2'"),
    ]:
        with pytest.raises(kind, match=message):
            build()


def test_skipped_videos_are_counted_over_workers(clips):
    collate = FrameSelectionCollator(UniformFrames(), 4, on_error="skip")
    data = [(clips[0], 0), (b"x", 1), (clips[1], 2), (b"y", 0)]
    loader = torch.utils.data.DataLoader(data, 2, collate_fn=collate, num_workers=2, multiprocessing_context="spawn")
    batches = list(loader)
    assert [batch["labels"].tolist() for batch in batches] == [[0, -100], [2, -100]]
    assert collate.skipped == 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 1], torch.tensor([-100, 1])),
        ([np.int32(3), np.int32(1)], torch.tensor([-100, 1])),
        ([torch.tensor(3), torch.tensor(1)], torch.tensor([-100, 1])),
        ([[0, 1], [1, 0]], torch.tensor([[1, 0], [1, 0]])),  # -100 would be a target of BCE, not passed over
        ([np.array([0.2, 0.8]), np.array([0.5, 0.5])], torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)),
        ([torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])], torch.tensor([[1.0, 1.0], [1.0, 1.0]])),
        ([0.25, 0.75], torch.tensor([0.75, 0.75])),
    ],
)
def test_a_skipped_video_has_a_label_that_a_loss_can_read(clips, labels, expected):
    collate = FrameSelectionCollator(UniformFrames(), 4, on_error="skip")
    with pytest.warns(UserWarning, match="skipped 1 of 2 videos"):
        batch = collate([(b"x", labels[0]), (clips[1], labels[1])])
    assert batch["labels"].dtype == expected.dtype
    assert torch.equal(batch["labels"], expected)


def test_skipping_names_what_was_skipped_and_refuses_a_batch_of_nothing(clips):
    collate = FrameSelectionCollator(UniformFrames(), 4, on_error="skip")
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 videos: video number 1 of the batch: cannot be read"):
        batch = collate([(clips[0], 2), (clips[1][:200], 1)])
    assert batch["labels"].tolist() == [2, -100]
    assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][1])
    with pytest.raises(VideoError, match=r"no video of the batch can be read: video number 0 .* \(1 cannot skip\)"):
        collate([(b"x", 1)])


def test_a_contact_sheet_is_drawn(clips, tmp_path):
    pytest.importorskip("matplotlib")
    collate = FrameSelectionCollator(FarthestFrames(), 4)
    figure = collate.plot(clips[0], tmp_path / "sheet.png")
    assert len(figure.axes) == 9
    assert (tmp_path / "sheet.png").stat().st_size > 5_000


def test_pixel_encoder_finds_the_principal_components():
    from tamis.core.rng import numpy_generator

    rng = numpy_generator(0)
    frames = torch.from_numpy(rng.integers(0, 256, (20, 3, 6, 8), dtype=np.uint8))
    encoder = PixelEncoder.fit([frames[:10], frames[10:]], size=(6, 8), dim=5, neighbours=1)
    features = encoder(frames)
    assert features.shape == (20, 15)
    assert encoder.dim == 15
    np.testing.assert_allclose(np.cov(features[:, 5:10].T, bias=True), np.eye(5), atol=1e-2)
    np.testing.assert_array_equal(features[1:, :5], features[:-1, 5:10])
    np.testing.assert_array_equal(features[0, :5], features[0, 5:10])
    with pytest.raises(ValueError, match="must be \\[m, 3, 6, 8\\]"):
        encoder(frames[:, :, :5])
    with pytest.raises(ValueError, match="at least one clip"):
        PixelEncoder.fit([], size=(6, 8), dim=5)


@pytest.mark.skipif(not GRID.exists(), reason="no ../shared/data/grid_s1")
@pytest.mark.parametrize("name", ["videomae", "timesformer", "vivit"])
def test_real_clips_through_hugging_face_datasets(name):
    import pyarrow.parquet as pq
    from datasets import Dataset, Video

    table = pq.read_table(GRID, columns=["video", "command"]).slice(0, 3).to_pydict()
    rows = Dataset.from_dict(
        {
            "video": [{"path": None, "bytes": content} for content in table["video"]],
            "label": [len(word) % 3 for word in table["command"]],
        }
    ).cast_column("video", Video(decode=False))
    batch = FrameSelectionCollator(SceneFrames(), 4, processor(name))([rows[i] for i in range(3)])
    assert bool(torch.isfinite(small_model(name)(**batch).loss))
