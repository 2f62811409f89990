"""What names a clip, wherever its file lies: for caches (`clip_identity`) and for draws (`clip_number`)."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tamis.core.types import FrameDecoder, VideoSource
from tamis.transforms.frames.video import VideoError

__all__ = ["clip_identity", "clip_number"]

_END = 2**16  # bytes of a file that are read at each end to name its draws


def clip_identity(source: VideoSource) -> bytes | None:
    """Bytes that name a video, the same for the same video in any process; None for a decoder of an unknown file.

    A file is named by its path, size and time of change, so that a file that was replaced has another name.

    Raises:
        VideoError: a file does not exist.
    """
    held = _held(source)
    if isinstance(held, Path):
        try:
            state = held.stat()
        except OSError as error:
            raise VideoError(f"video {held}: no such file") from error
        return f"{held.resolve()} {state.st_size} {state.st_mtime_ns}".encode()
    if isinstance(held, bytes):
        return hashlib.sha256(held).digest()
    if isinstance(held, (list, tuple)):
        return _hashed([np.asarray(image) for image in held])
    return _hashed([np.asarray(held)]) if isinstance(held, (torch.Tensor, np.ndarray)) else None


def _held(source: object) -> object:
    """What holds a video: a `Path`, bytes, or the source itself."""
    known = getattr(source, "_hf_encoded", None)  # what `datasets.Video()` made the decoder of
    if isinstance(known, Mapping) and (known.get("bytes") or os.path.exists(known.get("path") or "")):
        source = known
    if isinstance(source, Mapping):
        content = source.get("bytes")
        source = content if content is not None else source.get("path")
    return Path(source) if isinstance(source, (str, os.PathLike)) else source


def clip_number(source: VideoSource) -> int:
    """A clip as a number to draw by: of a file its size and both ends, wherever it lies.

    Of a decoder the first and last frame. Two clips that share these share their draws, which does no harm.
    """
    held = _held(source)
    if isinstance(held, (Path, bytes)):
        with held.open("rb") if isinstance(held, Path) else io.BytesIO(held) as file:
            size, ends = file.seek(0, os.SEEK_END), []
            for place in (0, max(0, size - _END)):
                file.seek(place)
                ends.append(file.read(_END))
        name = f"{size} ".encode() + b"".join(ends)
    elif (known := clip_identity(source)) is not None:
        name = known
    elif isinstance(held, FrameDecoder):
        name = _hashed([np.asarray(held.get_frames_at(indices=[0, len(held) - 1]).data)])
    else:
        raise TypeError(f"video: got {type(held).__name__}; see tamis.transforms.open_video for what it may be")
    return int(hashlib.sha256(name).hexdigest()[:15], 16)


def _hashed(arrays: list[np.ndarray]) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.digest()
