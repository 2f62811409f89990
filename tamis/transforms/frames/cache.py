"""The encoder's features of a clip's candidate frames, kept in a folder from one epoch to the next."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tamis.core.errors import TamisError
from tamis.core.files import write_tensors
from tamis.core.types import PathOrStr, VideoSource
from tamis.transforms.frames.encoder import FrameEncoder
from tamis.transforms.frames.identity import clip_identity
from tamis.transforms.frames.video import VideoError, VideoFrames

__all__ = ["FeatureCache", "encode_frames"]


@runtime_checkable
class DigestedEncoder(FrameEncoder, Protocol):
    """An encoder that names itself."""

    def digest(self) -> str:
        """Changes with its weights."""
        ...


class FeatureCache:
    """Features on disk, one file a clip.

    Args:
        folder: made when the first features are written.
        encoder: must have ``digest()``.

    Raises:
        TypeError: it has none.
    """

    def __init__(self, folder: PathOrStr, encoder: FrameEncoder) -> None:
        if not isinstance(encoder, DigestedEncoder):
            raise TypeError("cache_dir: the encoder has no digest(); give it one that changes with its weights")
        self.folder, self.encoder = Path(folder), encoder

    def features(self, clip: VideoFrames, places: np.ndarray, source: VideoSource) -> np.ndarray:
        """`encode_frames`, or what it gave the last time.

        Args:
            clip: the video, open.
            places: int64 [m], the candidates' frame numbers.
            source: what the video was opened from.

        Returns:
            float32 [m, d].

        Raises:
            TypeError: ``source`` is a decoder of an unknown file.
        """
        identity = clip_identity(source)
        if identity is None:
            raise TypeError(
                f"cache_dir: video {clip.name} is a decoder, which does not say what file it reads; pass paths or "
                "bytes, or leave cache_dir out"
            )
        parts = (identity, str(self.encoder.digest()).encode(), places.tobytes())
        file = self.folder / f"{hashlib.sha256(b'/'.join(parts)).hexdigest()[:32]}.safetensors"
        if file.exists():
            try:
                return load_file(file)["features"].numpy()
            except (SafetensorError, KeyError, OSError):
                pass  # damaged: made anew below
        features = encode_frames(self.encoder, clip, places)
        write_tensors(file, {"features": torch.from_numpy(features)})
        return features


def encode_frames(encoder: FrameEncoder, clip: VideoFrames, places: np.ndarray) -> np.ndarray:
    """The encoder's features of some frames.

    Args:
        encoder: reads the frames at its own size.
        clip: the video, open.
        places: int64 [m], frame numbers.

    Returns:
        float32 [m, d].

    Raises:
        TamisError: the encoder gives another shape.
        VideoError: its features are not finite.
    """
    with torch.inference_mode():
        features = torch.as_tensor(encoder(clip.frames(places, encoder.size))).float().cpu()
    if features.shape[:1] != places.shape or features.ndim != 2:
        raise TamisError(f"encoder: must give [{len(places)}, d], got {list(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise VideoError(f"video {clip.name}: the encoder gives features that are not finite")
    return features.numpy()
