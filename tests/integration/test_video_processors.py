"""Exactly the chosen frames arrive, through every video processor of transformers that can be built offline."""

import numpy as np
import pytest
import torch
import transformers
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from tamis.transforms import FrameSelectionCollator, FrameSelector
from tests.unit.video_tools import encode, pictures

CHOSEN = [1, 3, 4, 8, 9, 13, 17, 19]
LEVELS = 10.0 * np.arange(20) + 5  # frame k is of one grey, LEVELS[k]


class These(FrameSelector):
    def pick(self, view, n):
        return np.array(CHOSEN)


def names():
    found = set()

    def walk(value):
        if isinstance(value, str):
            found.add(value)
        else:
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)

    walk([value for value in VIDEO_PROCESSOR_MAPPING_NAMES.values() if value])
    return sorted(found)


def build(name):
    """The processor with its defaults, small pictures where it has a say; skips where it needs files."""
    try:
        processor = getattr(transformers, name)()
        processor.image_mean = processor.image_std = [0.5] * 3
        if name in ("Sam2VideoVideoProcessor", "VideomtVideoProcessor"):
            processor.size = {"height": 64, "width": 64}
        clip = torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
        processor([clip], return_tensors="pt", do_sample_frames=False)
    except Exception as error:
        pytest.skip(f"cannot be used offline with its defaults: {type(error).__name__}: {error}")
    return processor


def frames_in(batch):
    """Which frames' greys are in the pixels, by the three ways in which processors scale them."""
    for name, pixels in batch.items():
        if name.startswith("pixel_values"):
            values = pixels.unique().double().numpy()
            ways = (values * 0.5 + 0.5) * 255, values, (values * 0.5 + 1.5) * 127.5
            for way in ways:
                found = [k for k, level in enumerate(LEVELS) if np.abs(way - level).min() < 1]
                yield found


@pytest.mark.parametrize("name", names())
def test_the_chosen_frames_arrive(name):
    processor = build(name)
    clip = torch.from_numpy(LEVELS).byte()[:, None, None, None].expand(20, 3, 64, 64)
    collate = FrameSelectionCollator(These(), 8, processor)
    batch = collate([(clip, 1), (clip, 0)])
    assert batch["frame_indices"].tolist() == [CHOSEN] * 2
    assert CHOSEN in list(frames_in(batch))


def test_the_metadata_is_that_of_the_file():
    content = encode(pictures(20), rate=10)
    seen = {}

    class Recorder(transformers.Qwen3VLVideoProcessor):
        def _decode_and_sample_videos(self, videos, **kwargs):
            seen.update(kwargs)
            return super()._decode_and_sample_videos(videos, **kwargs)

    FrameSelectionCollator(These(), 8, Recorder(), backend="pyav")([(content, 0)])
    metadata = dict(seen["video_metadata"][0])
    assert metadata["total_num_frames"] == 20
    assert metadata["frames_indices"] == CHOSEN
    assert metadata["fps"] == pytest.approx(10)
    assert metadata["duration"] == pytest.approx(2)
    assert seen["do_sample_frames"] is False


def test_a_callable_of_ones_own_is_called_as_before():
    calls = []

    def processor(clips, **kwargs):
        calls.append(kwargs)
        return {"pixel_values": torch.stack(clips)}

    clip = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    FrameSelectionCollator(These(), 8, processor)([(clip, 1)])
    assert calls == [{"return_tensors": "pt"}]
