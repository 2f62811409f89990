"""Tiny real clips, encoded here: every frame says its own number in its pixels."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs PyAV: pip install 'tamis[video]'")

HEIGHT, WIDTH = 32, 48


def pictures(count, height=HEIGHT, width=WIDTH):
    """uint8 [count, H, W, 3]: brightness rises with the frame number, and a bar moves to the right."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i] = 20 + (200 * i) // max(1, count - 1)
        frames[i, :, (i * width) // count :][:, :3] = (250, 20, 120)
    return frames


def encode(frames, *, gop=5, rate=25, pts=None, container="mp4", b_frames=2):
    """Bytes of a lossy H.264 clip."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"g": str(gop), "crf": "5", "bf": str(b_frames), "threads": "1"}
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = (1000 * i) // rate if pts is None else pts[i]
            frame.time_base = Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return buffer.getvalue()


def decode_all(content):
    """Every frame, the plain way: uint8 [N, 3, H, W]."""
    with av.open(io.BytesIO(content)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).transpose(0, 3, 1, 2)
