"""Damaged video files: a `VideoError` whatever is wrong, so that ``on_error="skip"`` skips each."""

import io

import numpy as np
import pytest
import torch

from tamis.core.rng import numpy_generator
from tamis.transforms import FrameSelectionCollator, UniformFrames
from tamis.transforms.frames.pyav import PyAVFrames
from tamis.transforms.frames.video import VideoError, open_video
from tests.unit.video_tools import av, encode, pictures


def titled(title="ABCDEFGHIJ"):
    """A clip with a title in its metadata."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        out.metadata["title"] = title
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in pictures(12):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


def damaged(content, rng):
    """Cut off, or bytes changed: some, a stretch, or some near the ends, where the headers are."""
    kind, raw = rng.integers(4), bytearray(content)
    if kind == 0:
        return bytes(raw[: rng.integers(1, len(raw))])
    if kind == 1:
        start = rng.integers(len(raw))
        raw[start : start + 64] = rng.bytes(len(raw[start : start + 64]))
        return bytes(raw)
    for _ in range(rng.integers(1, 20)):
        place = rng.integers(len(raw) if kind == 2 else 1500)
        raw[place if rng.random() < 0.5 else -1 - place] = rng.choice([0, 127, 128, 254, 255, rng.integers(256)])
    return bytes(raw)


def test_no_damage_escapes():
    rng, whole = numpy_generator(3), titled()
    seeds = [whole, *(encode(pictures(12), container=name) for name in ("mp4", "matroska", "avi", "mpegts"))]
    collate = FrameSelectionCollator(UniformFrames(), 4, on_error="skip", backend="pyav")
    good = torch.zeros(4, 3, 32, 48, dtype=torch.uint8)
    skipped = 0
    for number in range(200):
        content = damaged(seeds[number % len(seeds)], rng)
        try:
            collate([(content, 0)])
        except VideoError:
            skipped += 1
            with pytest.warns(UserWarning, match="skipped 1 of 2 videos"):
                assert collate([(content, 0), (good, 1)])["labels"].tolist() == [-100, 1]
    assert skipped > 60
    assert collate.skipped == skipped


def test_a_title_that_is_not_utf8_does_not_hide_the_video():
    content = titled().replace(b"ABCDEFGHIJ", b"ABC\xec\xff\xfeGHIJ")
    assert b"\xec\xff\xfe" in content
    clip = open_video(content, backend="pyav")
    assert clip.num_frames == 12
    assert clip.frames(np.arange(12)).shape == (12, 3, 32, 48)


@pytest.mark.parametrize("where", ["_scan", "_exact"])
def test_a_decoder_that_asks_for_too_much_memory_is_a_damaged_video(where):
    def fail(self, *args):
        raise MemoryError

    class Greedy(PyAVFrames):
        pass

    setattr(Greedy, where, fail)
    with pytest.raises(VideoError, match=r"\(MemoryError\); it is damaged"):
        Greedy(encode(pictures(4)), "clip").frames(np.arange(2))
