"""Small MP4 clips for the frame examples: a bar shows the class for a few frames, noise fills the rest."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEVideoProcessor

FRAMES, HEIGHT, WIDTH, SHOWN = 40, 32, 48, 6


def clip(label: int, seed: int) -> bytes:
    """MP4 bytes of 40 frames; in 6 of them a bar stands left (class 0), in the middle (1) or right (2)."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(60, 120, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    start = int(rng.integers(5, 15))
    frames[start : start + SHOWN, :, 16 * label + 2 : 16 * label + 14] = 235
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return buffer.getvalue()


def make_clips(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Samples as a data set gives them: ``{"video": bytes, "label": int}``."""
    return [{"video": clip(i % 3, 10_000 * seed + i), "label": i % 3} for i in range(count)]


def small_videomae(num_frames: int) -> VideoMAEForVideoClassification:
    """A VideoMAE from a config: nothing is downloaded."""
    config = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=num_frames,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    return VideoMAEForVideoClassification(config)


def small_processor() -> VideoMAEVideoProcessor:
    """The processor for it: what the collator hands the chosen frames to."""
    return VideoMAEVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def share_right(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Accuracy on one batch."""
    model.eval()
    with torch.inference_mode():
        logits = model(pixel_values=batch["pixel_values"].to(next(model.parameters()).device)).logits
    return float((logits.argmax(-1).cpu() == batch["labels"]).float().mean())
