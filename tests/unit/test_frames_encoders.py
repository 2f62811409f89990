"""Encoders of frames: the piece that moves, image models of timm and of Hugging Face, and which of them tells most."""

import dataclasses
import pickle  # noqa: TID251  (what a worker process does with a collator)
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, ConvNextImageProcessor, ResNetConfig, ResNetModel

import tamis
from tamis.core.errors import PolicyError, TamisError
from tamis.core.rng import torch_generator
from tamis.search import MapConfig, compare_encoders, search_frames
from tamis.transforms import (
    ClipView,
    ConfidentFrames,
    FrameSelectionCollator,
    HFEncoder,
    MotionEncoder,
    PixelEncoder,
    TimmEncoder,
)
from tamis.transforms.frames.encoder import liveliest

GOLDEN = Path(__file__).parents[1] / "golden" / "frames"
SIZE, PIECE = (96, 120), (32, 48)


def lips(count: int = 32, frames: int = 10) -> tuple[list[torch.Tensor], list[int]]:
    """Still noise in which a piece flickers: in every other frame one of its halves is bright, which is the class."""
    labels = [number % 2 for number in range(count)]
    clips = []
    for number, label in enumerate(labels):
        generator = torch_generator(9, number)
        scene = torch.randint(256, (1, 3, *SIZE), generator=generator, dtype=torch.uint8)
        clip = scene.repeat(frames, 1, 1, 1)
        top, left = (int(torch.randint(64, (), generator=generator)) for _ in range(2))
        for t in range(frames):
            spot = torch.randint(256, (3, *PIECE), generator=generator, dtype=torch.uint8)
            if t % 2:
                spot[:, :, 24 * label : 24 * label + 24] = 255
            clip[t, :, top : top + 32, left : left + 48] = spot
        clips.append(clip)
    return clips, labels


def test_the_liveliest_piece_is_the_one_an_exhaustive_search_finds() -> None:
    frames = torch.rand(5, 9, 11, generator=torch_generator(1))
    change = frames.diff(dim=0).abs().sum(0)
    places = [(change[t : t + 3, w : w + 4].sum(), t, w) for t in range(7) for w in range(8)]
    _, top, left = max(places)
    assert torch.equal(liveliest(frames, (3, 4)), frames[:, top : top + 3, left : left + 4])
    assert liveliest(frames[:1], (3, 4)).shape == (1, 3, 4)
    assert torch.equal(liveliest(frames, (9, 11)), frames)


def test_what_moves_tells_where_the_scene_does_not() -> None:
    """A linear probe on the features of the frames that tell, fitted on half of the clips."""
    videos, labels = lips(48)
    right = {}
    for encoder in (
        MotionEncoder.fit(videos[::4], dim=8, context=(0,)),
        PixelEncoder.fit([v[..., ::3, ::3][..., :40] for v in videos[::4]], size=(32, 40), dim=8),
    ):
        step = 1 if encoder.size == SIZE else 3
        rows = torch.stack(
            [torch.from_numpy(encoder(v[..., ::step, ::step][..., : encoder.size[1]]))[1::2].mean(0) for v in videos]
        )
        rows, signs = torch.cat([rows, torch.ones(len(rows), 1)], 1), torch.tensor(labels).float()[:, None] * 2 - 1
        probe = torch.linalg.lstsq(rows[:24], signs[:24]).solution
        right[type(encoder).__name__] = float(((rows[24:] @ probe).sign() == signs[24:]).float().mean())
    assert right["MotionEncoder"] > 0.9 > 0.8 > right["PixelEncoder"]


def test_encoders_are_compared_by_what_a_model_of_random_frames_gets_right() -> None:
    videos, labels = lips(8)
    encoders = {"clip": HFEncoder(tiny_clip()), "still": PixelEncoder.pixels((6, 8))}
    found = compare_encoders(videos, labels, encoders, num_frames=4, folds=2, draws=3)
    assert set(found) == {"clip", "still"}
    assert all(0 <= share <= 1 for share in found.values())
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_policy_carries_the_encoder_that_its_search_fitted(tmp_path) -> None:
    videos, labels = lips(16)
    options = dict(num_frames=3, folds=2, clip_length=5, budget=200, map_config=MapConfig(width=8, epochs=2))
    policy = search_frames(videos, labels, encoder="motion", out=tmp_path / "run", **options)
    encoder = tamis.load_policy(tmp_path / "run").pixel_encoder()
    assert (encoder.size, encoder.piece, encoder.context, encoder.centred) == (SIZE, PIECE, (-4, -2, 0, 2, 4), True)
    assert encoder.dim == policy.feature_size == 48 * 5
    collate = FrameSelectionCollator(policy, 3)
    again = FrameSelectionCollator(tamis.load_policy(tmp_path / "run"), 3)
    assert np.array_equal(collate.select(videos[0]), again.select(videos[0]))
    assert "the liveliest 32x48 of thumbnails 96x120" in policy.summary()


def test_encoders_of_before_have_the_digest_that_they_had() -> None:
    clips = [torch.randint(256, (4, 3, 6, 8), generator=torch_generator(3), dtype=torch.uint8)]
    plain = PixelEncoder.fit(clips, size=(6, 8), dim=5)
    pieces = PixelEncoder.fit(clips, size=(6, 8), dim=5, piece=(3, 4))
    assert plain.digest() == tamis.fingerprint([6, 8], 1, False, plain.mean, plain.components)
    assert plain.digest() != pieces.digest()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"piece": (7, 4)}, r"piece=\(7, 4\): must be \(height, width\) within size=\(6, 8\)"),
        ({"piece": (3, 0)}, r"piece=\(3, 0\)"),
        ({"context": (0, 1)}, "takes the place of neighbours=1"),
        ({"piece": (2, 2), "dim": 5}, "dim=5"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(options, words) -> None:
    clips = [torch.zeros(4, 3, 6, 8, dtype=torch.uint8)]
    with pytest.raises(ValueError, match=words):
        PixelEncoder.fit(clips, size=(6, 8), **{"dim": 3, **options})


def test_an_unknown_name_is_told_the_names() -> None:
    with pytest.raises(ValueError, match="must be one of 'pixels', 'motion'"):
        search_frames(*lips(4), encoder="movement", folds=2)


# ---- image models


def tiny_clip() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    return CLIPVisionModel(config)


def encoders():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251  (the models start as users' models do)
        resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1]))
        processor = ConvNextImageProcessor(size={"height": 40, "width": 48})
        return {
            "timm": (TimmEncoder("resnet10t", size=(32, 48), batch_size=2), 512),
            "clip": (HFEncoder(tiny_clip()), 16),
            "resnet": (HFEncoder(resnet, processor), 12),
        }


@pytest.mark.parametrize("name", ["timm", "clip", "resnet"])
def test_an_image_model_gives_each_frame_the_feature_that_it_has_alone(name: str) -> None:
    encoder, width = encoders()[name]
    encoder.model.train()
    frames = torch.randint(256, (5, 3, *encoder.size), generator=torch_generator(4), dtype=torch.uint8)
    features = encoder(frames)
    assert features.shape == (5, width)
    assert features.dtype == torch.float32
    alone = torch.cat([encoder(frame[None]) for frame in frames])
    assert torch.allclose(features, alone, atol=1e-4)
    assert encoder.model.training  # left as it was
    assert encoder.digest() == encoder.digest() == pickle.loads(pickle.dumps(encoder)).digest()  # noqa: S301
    with pytest.raises(ValueError, match="must be"):
        encoder(frames[..., :-1])


def test_the_digest_changes_with_the_weights() -> None:
    encoder, other = HFEncoder(tiny_clip()), HFEncoder(tiny_clip())
    assert encoder.digest() != other.digest()


def test_pictures_are_normalised_as_the_processor_does_it() -> None:
    model, _ = encoders()["resnet"]
    frames = torch.randint(256, (2, 3, *model.size), generator=torch_generator(5), dtype=torch.uint8)
    processor = ConvNextImageProcessor(size={"height": 40, "width": 48}, do_resize=False, do_center_crop=False)
    pixels = processor(list(frames), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        wanted = model.model.eval()(pixel_values=pixels).pooler_output.flatten(1)
    assert torch.allclose(model(frames), wanted, atol=1e-4)


def test_a_model_that_gives_no_vector_or_no_size_is_told() -> None:
    class Map(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, 1)

        def forward_features(self, pixels):
            return self.conv(pixels)

        def forward_head(self, features, pre_logits=False):
            return features

    with pytest.raises(TamisError, match=r"Map: must give one vector a picture, got \[2, 2, 8, 8\]"):
        TimmEncoder(Map(), size=(8, 8))(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="does not say at which size it wants frames"):
        HFEncoder(torch.nn.Linear(1, 1))


def test_a_search_and_a_collator_take_an_image_model(tmp_path) -> None:
    videos, labels = lips(8)
    encoder = HFEncoder(tiny_clip())
    options = dict(num_frames=3, folds=2, clip_length=5, budget=200, map_config=MapConfig(width=8, epochs=1))
    policy = search_frames(videos, labels, encoder=encoder, out=tmp_path, **options)
    collate = FrameSelectionCollator(policy, 3, encoder=encoder, cache_dir=tmp_path / "features")
    batch = collate([{"video": video, "label": label} for video, label in zip(videos[:2], labels, strict=False)])
    assert batch["frame_indices"].shape == (2, 3)


def test_another_encoder_than_the_policys_is_refused(tmp_path) -> None:
    videos, labels = lips(8)
    options = dict(num_frames=2, folds=2, clip_length=5, budget=200, map_config=MapConfig(width=8, epochs=1))
    policy = search_frames(videos, labels, encoder=HFEncoder(tiny_clip()), **options)
    with pytest.raises(
        PolicyError, match="HFEncoder is another encoder than the one that the policy was searched with"
    ):
        FrameSelectionCollator(policy, 2, encoder=HFEncoder(tiny_clip()))
    with pytest.raises(PolicyError, match="the policy was searched with an encoder of your own"):
        FrameSelectionCollator(policy, 2)


def test_more_frames_than_were_searched_for_are_told() -> None:
    policy = tamis.load_policy(GOLDEN / "2")
    with pytest.warns(UserWarning, match="num_frames=9: the policy was searched for 3 frames"):
        FrameSelectionCollator(policy, 9)


def test_a_head_of_another_width_is_told() -> None:
    view = ClipView(4, np.zeros((4, 5), dtype=np.float32))
    with pytest.raises(ValueError, match=r"head: cannot read features \[4, 5\].*features of the same encoder"):
        ConfidentFrames(torch.nn.Linear(6, 2)).select(view, 2)


def test_a_loaded_policy_cannot_ask_for_huge_pictures() -> None:
    policy = tamis.load_policy(GOLDEN / "3")
    with pytest.raises(ValueError, match="must be at most 1024 a side"):
        dataclasses.replace(policy, thumbnail=(2, 100_000))
