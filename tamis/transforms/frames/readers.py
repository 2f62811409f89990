"""An open video: what every reader gives, and the readers of frames in memory and of torchcodec's decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tamis.core.errors import TamisError
from tamis.core.types import FrameDecoder, Image

__all__ = ["ImageFrames", "Size", "TensorFrames", "TorchcodecFrames", "VideoError", "VideoFrames", "shrink"]

Size = tuple[int, int]


class VideoError(TamisError, ValueError):
    """A video cannot be read: missing, damaged, cut off or empty. The message names it."""


class VideoFrames(ABC):
    """An open video.

    Attributes:
        name: for messages.
        num_frames: N, >= 1.
        times: float64 [N], seconds, or None if unknown.
    """

    name: str
    num_frames: int
    times: np.ndarray | None = None

    @property
    def fps(self) -> float | None:
        """Frames per second, on average; None if unknown."""
        if self.times is None or len(self.times) < 2 or not self.times[-1] > self.times[0]:
            return None
        return float((len(self.times) - 1) / (self.times[-1] - self.times[0]))

    def metadata(self, frames: np.ndarray, height: int, width: int) -> dict[str, Any]:
        """What transformers' video processors must know of a selection, as their ``video_metadata``.

        Args:
            frames: the numbers of the chosen frames, int64 [T].
            height: of a frame, in pixels.
            width: of a frame, in pixels.
        """
        fps = self.fps
        return {
            "total_num_frames": self.num_frames,
            "fps": fps,
            "duration": None if fps is None else self.num_frames / fps,
            "height": height,
            "width": width,
            "frames_indices": frames.tolist(),
        }

    def frames(self, indices: np.ndarray, size: Size | None = None) -> torch.Tensor:
        """The frames ``indices`` in that order, repeats included: uint8 RGB [k, 3, H, W].

        Args:
            indices: int [k], each in [0, N).
            size: (height, width) to shrink each frame to as it is read.

        Raises:
            VideoError: an index out of range, or a frame that cannot be decoded.
        """
        unique, back = np.unique(indices, return_inverse=True)
        if not len(unique) or unique[0] < 0 or unique[-1] >= self.num_frames:
            raise VideoError(f"video {self.name}: frames {unique.tolist()} must be in [0, {self.num_frames})")
        return self._read(unique, size)[torch.from_numpy(back.reshape(-1))]

    @abstractmethod
    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        """The frames ``indices``, which are sorted and distinct."""

    def close(self) -> None:
        """Let go of the file."""
        return


class TensorFrames(VideoFrames):
    """Frames in memory.

    Args:
        tensor: uint8 [N, 3, H, W], N >= 1.
        name: for messages.
    """

    def __init__(self, tensor: torch.Tensor, name: str) -> None:
        self.tensor, self.name, self.num_frames = tensor, name, len(tensor)

    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        return shrink(self.tensor[torch.from_numpy(indices)], size)


class ImageFrames(VideoFrames):
    """A list of PIL images, converted as they are asked for.

    Args:
        images: N >= 1 of them.
        name: for messages.
    """

    def __init__(self, images: Sequence[Image], name: str) -> None:
        self.images, self.name, self.num_frames = images, name, len(images)

    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        images = [torch.from_numpy(np.array(self.images[i].convert("RGB"))).permute(2, 0, 1) for i in indices]
        if size is None and len({image.shape for image in images}) > 1:
            raise VideoError(f"video {self.name}: its images differ in size; resize them to one")
        return torch.cat([shrink(image[None], size) for image in images])


class TorchcodecFrames(VideoFrames):
    """A torchcodec decoder. Frames are decoded in pieces if they are shrunk, so that few are held at full size.

    Args:
        decoder: torchcodec's `VideoDecoder`, or one like it.
        name: for messages.

    Raises:
        VideoError: it has no frames.
    """

    _PIECE = 16

    def __init__(self, decoder: FrameDecoder, name: str) -> None:
        self.decoder, self.name = decoder, name
        self.num_frames = len(decoder)
        if self.num_frames < 1:
            raise VideoError(f"video {name}: has no frames")

    @property
    def fps(self) -> float | None:
        known = getattr(getattr(self.decoder, "metadata", None), "average_fps", None)
        return float(known) if known else None

    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        step = len(indices) if size is None else self._PIECE
        parts = []
        for first in range(0, len(indices), step):
            try:
                data = self.decoder.get_frames_at(indices=indices[first : first + step].tolist()).data
            except (RuntimeError, ValueError, IndexError) as error:
                raise VideoError(f"video {self.name}: cannot be decoded ({error}); the file is damaged") from error
            data = data if data.shape[1] == 3 else data.permute(0, 3, 1, 2)  # dimension_order="NHWC"
            parts.append(shrink(data.cpu(), size))
        return torch.cat(parts)


def shrink(frames: torch.Tensor, size: Size | None) -> torch.Tensor:
    """Frames at another size, by antialiased bilinear interpolation.

    Args:
        frames: uint8 [k, 3, H, W].
        size: (height, width); None for as they are.

    Returns:
        uint8 [k, 3, height, width].
    """
    if size is None or tuple(frames.shape[-2:]) == tuple(size):
        return frames
    small = torch.nn.functional.interpolate(frames.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).byte()
