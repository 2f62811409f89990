"""Opening a video of any kind as frames that can be asked for by number, exactly.

A source is a path, bytes, ``{"path", "bytes"}`` as `datasets.Video(decode=False)` gives it, a torchcodec
`VideoDecoder` (`datasets.Video()`), a uint8 tensor [T, C, H, W], an array [T, H, W, C] or a list of PIL images.

Files are read by torchcodec where it works and by PyAV otherwise. torchcodec can be imported without FFmpeg and fails
only when a decoder is constructed, so that is what is tried. The PyAV reader first reads the packets (no decoding) to
know each frame's time, then seeks to the key frame before a frame that is asked for and decodes until exactly that
time: any order, any repeats, one frame in memory at a time. A file that lacks frames it promises is an error, because
a selector would silently choose among fewer. Frames that an edit list hides (a trimmed copy) are not lacking.
"""

from __future__ import annotations

import io
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from tamis.core.checks import check_choice
from tamis.core.errors import TamisError

__all__ = ["BACKENDS", "VideoError", "VideoFrames", "open_video"]

BACKENDS = ("auto", "torchcodec", "pyav")
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


def open_video(source: Any, name: str = "?", *, backend: str = "auto") -> VideoFrames:
    """Open a video.

    Args:
        source: see the module.
        name: for messages; a path names itself.
        backend: how to read files: ``"torchcodec"``, ``"pyav"``, or ``"auto"``, the first that works.

    Raises:
        VideoError: it cannot be opened, or has no frames.
        TypeError: no kind of video.
        ImportError: the backend is not installed.
    """
    check_choice("backend", backend, BACKENDS)
    if isinstance(source, dict) and ("bytes" in source or "path" in source):
        path, content = source.get("path"), source.get("bytes")
        name = str(path) if path else name
        source = content if content is not None else path
    if source is None:
        raise VideoError(f"video {name}: is None; leave rows without a video out")
    if isinstance(source, (str, os.PathLike)):
        name, source = str(source), os.fspath(source)
        if not os.path.isfile(source):
            raise VideoError(f"video {name}: {'is a folder; give a file' if os.path.isdir(source) else 'no such file'}")
    if isinstance(source, (str, bytes)):
        if not (len(source) if isinstance(source, bytes) else os.path.getsize(source)):
            raise VideoError(f"video {name}: is empty, 0 bytes")
        return _open_file(source, name, backend)
    if hasattr(source, "get_frames_at"):
        return TorchcodecFrames(source, name)
    if isinstance(source, (torch.Tensor, np.ndarray)):
        return TensorFrames(_as_tensor(source, name), name)
    if isinstance(source, (list, tuple)) and source and all(hasattr(image, "convert") for image in source):
        return ImageFrames(list(source), name)
    if isinstance(source, (list, tuple)) and not source:
        raise VideoError(f"video {name}: has no frames")
    raise TypeError(
        f"video {name}: got {type(source).__name__}; give a path, bytes, a torchcodec decoder, a uint8 tensor "
        "[T, C, H, W] or a list of PIL images"
    )


class TensorFrames(VideoFrames):
    """Frames in memory: uint8 [N, 3, H, W]."""

    def __init__(self, tensor: torch.Tensor, name: str) -> None:
        self.tensor, self.name, self.num_frames = tensor, name, len(tensor)

    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        return shrink(self.tensor[torch.from_numpy(indices)], size)


class ImageFrames(VideoFrames):
    """A list of PIL images, converted as they are asked for."""

    def __init__(self, images: list[Any], name: str) -> None:
        self.images, self.name, self.num_frames = images, name, len(images)

    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        images = [torch.from_numpy(np.array(self.images[i].convert("RGB"))).permute(2, 0, 1) for i in indices]
        if size is None and len({image.shape for image in images}) > 1:
            raise VideoError(f"video {self.name}: its images differ in size; resize them to one")
        return torch.cat([shrink(image[None], size) for image in images])


class TorchcodecFrames(VideoFrames):
    """A torchcodec decoder. Frames are decoded in pieces if they are shrunk, so that few are held at full size."""

    _PIECE = 16

    def __init__(self, decoder: Any, name: str) -> None:
        self.decoder, self.name = decoder, name
        self.num_frames = len(decoder)
        if self.num_frames < 1:
            raise VideoError(f"video {name}: has no frames")

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


class PyAVFrames(VideoFrames):
    """A file read by PyAV.

    Raises:
        VideoError: no video in it, or fewer frames than its header promises.
    """

    def __init__(self, source: str | bytes, name: str) -> None:
        import av

        self.name, self.source, self._error = name, source, (av.error.FFmpegError, EOFError)
        self.container: Any = None
        # `frame.to_ndarray(format=)` would set up a conversion, with threads, for each frame: half of the time
        self.converter = av.video.reformatter.VideoReformatter()
        self.alone = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}
        try:
            self._open()
            self._scan()
            promised = self.stream.frames
            stored = self.num_frames if self.num_frames >= promised else self._stored()
        except MemoryError:  # FFmpeg's own too: not the file's fault
            raise
        except self._error as error:
            raise VideoError(f"video {name}: cannot be read ({error}); it is damaged, cut off or no video") from error
        if not self.num_frames or stored < promised:
            raise VideoError(f"video {name}: holds {stored} of {promised} frames; it is cut off")

    def _open(self) -> None:
        import av

        self.close()
        self.container = av.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source)
        if not self.container.streams.video:
            raise VideoError(f"video {self.name}: has no video stream, only sound or data")
        self.stream = self.container.streams.video[0]

    def _scan(self) -> None:
        """Read the time of each frame from the packets, which are not kept: a file may be longer than memory."""
        packets = (p for p in self.container.demux(self.stream) if p.size and not getattr(p, "is_discard", False))
        found = [(packet.pts, packet.is_keyframe) for packet in packets]
        stamps = [pts for pts, _ in found]
        self.pts: np.ndarray | None = None
        if stamps and None not in stamps and len(set(stamps)) == len(stamps):
            self.pts = np.sort(np.array(stamps, dtype=np.int64))
            self.keys = np.sort(np.array([pts for pts, key in found if key], dtype=np.int64))
            self.times = self.pts * float(self.stream.time_base or 1.0)
            self.num_frames = len(self.pts)
        else:  # no time stamps: count by decoding
            self.num_frames = sum(1 for _ in self._from_start())

    def _stored(self) -> int:
        """Frames in the file, with those that an edit list hides: the header counts them too."""
        import av

        content = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        with av.open(content, mode="r", options={"ignore_editlist": "1"}) as container:
            return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)

    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        try:
            found = self._exact(indices) if self.pts is not None else self._counted(indices)
            return torch.stack([self._pixels(frame, size) for frame in found])
        except MemoryError:
            raise
        except self._error as error:
            raise VideoError(f"video {self.name}: cannot be decoded ({error}); it is damaged or cut off") from error

    def _exact(self, indices: np.ndarray) -> Iterator[Any]:
        """Each wanted frame, found by its time; seeks where a key frame lies between it and the last one."""
        reader: Iterator[Any] = iter(())
        last, sought = -math.inf, False
        for index in indices:
            wanted = int(self.pts[index])  # type: ignore[index]
            before = self.keys[self.keys <= wanted]
            if len(before) and before[-1] > last:
                self.container.seek(int(before[-1]), stream=self.stream, backward=True)
                reader, sought = self.container.decode(self.stream), True
            elif last == -math.inf:
                reader = self._from_start()
            frame = _first_from(reader, wanted)
            if sought and (frame is None or frame.pts != wanted or frame.is_corrupt):
                # some containers seek past the key frame
                reader, sought = self._from_start(), False
                frame = _first_from(reader, wanted)
            if frame is None or frame.pts != wanted or frame.is_corrupt:
                raise VideoError(f"video {self.name}: frame {index} cannot be decoded; the file is damaged or cut off")
            last = wanted
            yield frame

    def _counted(self, indices: np.ndarray) -> Iterator[Any]:
        wanted = set(indices.tolist())
        for number, frame in enumerate(self._from_start()):
            if number in wanted:
                yield frame
            if number == indices[-1]:
                return
        raise VideoError(f"video {self.name}: ended before frame {indices[-1]}")

    def _from_start(self) -> Iterator[Any]:
        self._open()  # unlike seeking to 0 it works in every container
        frames: Iterator[Any] = self.container.decode(self.stream)
        return frames

    def _pixels(self, frame: Any, size: Size | None) -> torch.Tensor:
        height, width = size or (None, None)
        way = None if size is None else "AREA"
        picture = self.converter.reformat(frame, width, height, format="rgb24", interpolation=way, **self.alone)
        return torch.from_numpy(picture.to_ndarray()).permute(2, 0, 1)

    def close(self) -> None:
        if self.container is not None:
            self.container.close()


def _first_from(reader: Iterator[Any], pts: int) -> Any:
    """The first frame at ``pts`` or later, None at the end."""
    return next((frame for frame in reader if frame.pts is not None and frame.pts >= pts), None)


def shrink(frames: torch.Tensor, size: Size | None) -> torch.Tensor:
    """Frames uint8 [k, 3, H, W] at ``size``, by antialiased interpolation; as they are for None."""
    if size is None or tuple(frames.shape[-2:]) == tuple(size):
        return frames
    small = torch.nn.functional.interpolate(frames.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).byte()


_torchcodec_loads = True  # until constructing a decoder has shown otherwise


def _open_file(source: str | bytes, name: str, backend: str) -> VideoFrames:
    global _torchcodec_loads
    if backend != "pyav" and (_torchcodec_loads or backend == "torchcodec"):
        try:
            from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined,unused-ignore]

            return TorchcodecFrames(VideoDecoder(source), name)
        except ImportError as error:
            _torchcodec_loads = False
            if backend == "torchcodec":
                raise ImportError("backend='torchcodec': needs pip install torchcodec, and FFmpeg") from error
        except (RuntimeError, ValueError) as error:
            if "Could not load libtorchcodec" in str(error):
                _torchcodec_loads = False
                if backend == "torchcodec":
                    raise ImportError("backend='torchcodec': torchcodec finds no FFmpeg; use 'auto'") from error
            elif backend == "torchcodec":
                raise VideoError(f"video {name}: cannot be read ({error}); it is damaged or no video") from error
    try:
        return PyAVFrames(source, name)
    except ImportError as error:
        raise ImportError("reading video files needs pip install 'tamis[video]'") from error


def _as_tensor(source: torch.Tensor | np.ndarray, name: str) -> torch.Tensor:
    tensor = source if isinstance(source, torch.Tensor) else torch.from_numpy(source)
    if isinstance(source, np.ndarray) and source.ndim == 4 and source.shape[-1] in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2)
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[1] not in (1, 3):
        raise TypeError(
            f"video {name}: got {tensor.dtype} {list(tensor.shape)}; must be uint8 [T, C, H, W] (an array: [T, H, W, "
            "C]) with 1 or 3 channels"
        )
    if not len(tensor):
        raise VideoError(f"video {name}: has no frames")
    return tensor.expand(-1, 3, -1, -1)
