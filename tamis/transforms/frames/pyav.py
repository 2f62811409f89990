"""Video files read by PyAV, frame by frame and exactly.

First the packets are read (no decoding) to know each frame's time; then the reader seeks to the key frame before a
frame that is asked for and decodes until exactly that time: any order, any repeats, one frame in memory at a time.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tamis.transforms.frames.readers import Size, VideoError, VideoFrames

if TYPE_CHECKING:
    from av import VideoFrame

__all__ = ["PyAVFrames"]


class PyAVFrames(VideoFrames):
    """A file read by PyAV.

    Args:
        source: a path, or a file's bytes.
        name: for messages.

    Raises:
        VideoError: no video in it, or fewer frames than its header promises.
    """

    def __init__(self, source: str | bytes, name: str) -> None:
        import av

        self.name, self.source = name, source
        # beside FFmpeg's own: text that is none, numbers that are none, a picture larger than memory
        self._error = (av.error.FFmpegError, EOFError, MemoryError, UnicodeError, ArithmeticError, IndexError)
        self.container: Any = None
        # `frame.to_ndarray(format=)` would set up a conversion, with threads, for each frame: half of the time
        self.converter = av.video.reformatter.VideoReformatter()
        self.alone = {"threads": 1} if int(av.__version__.split(".")[0]) >= 18 else {}
        try:
            self._open()
            self._scan()
            promised = self.stream.frames
            stored = self.num_frames if self.num_frames >= promised else self._stored()
        except self._error as error:
            raise VideoError(f"video {name}: cannot be read ({_why(error)}); it is damaged or no video") from error
        if not self.num_frames or stored < promised:
            raise VideoError(f"video {name}: holds {stored} of {promised} frames; it is cut off")

    def _open(self) -> None:
        import av

        self.close()
        content = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        self.container = av.open(content, mode="r", metadata_errors="ignore")  # titles may be in any encoding
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
        options = {"ignore_editlist": "1"}
        with av.open(content, mode="r", options=options, metadata_errors="ignore") as container:
            return sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)

    def _read(self, indices: np.ndarray, size: Size | None) -> torch.Tensor:
        try:
            found = self._exact(indices) if self.pts is not None else self._counted(indices)
            return torch.stack([self._pixels(frame, size) for frame in found])
        except self._error as error:
            raise VideoError(f"video {self.name}: cannot be decoded ({_why(error)}); it is damaged") from error

    def _exact(self, indices: np.ndarray) -> Iterator[VideoFrame]:
        """Each wanted frame, found by its time; seeks where a key frame lies between it and the last one."""
        reader: Iterator[VideoFrame] = iter(())
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

    def _counted(self, indices: np.ndarray) -> Iterator[VideoFrame]:
        wanted = set(indices.tolist())
        for number, frame in enumerate(self._from_start()):
            if number in wanted:
                yield frame
            if number == indices[-1]:
                return
        raise VideoError(f"video {self.name}: ended before frame {indices[-1]}")

    def _from_start(self) -> Iterator[VideoFrame]:
        self._open()  # unlike seeking to 0 it works in every container
        frames: Iterator[VideoFrame] = self.container.decode(self.stream)
        return frames

    def _pixels(self, frame: VideoFrame, size: Size | None) -> torch.Tensor:
        height, width = size or (None, None)
        way = None if size is None else "AREA"
        picture = self.converter.reformat(frame, width, height, format="rgb24", interpolation=way, **self.alone)
        return torch.from_numpy(picture.to_ndarray()).permute(2, 0, 1)

    def close(self) -> None:
        if self.container is not None:
            self.container.close()


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _first_from(reader: Iterator[VideoFrame], pts: int) -> VideoFrame | None:
    """The first frame at ``pts`` or later, None at the end."""
    return next((frame for frame in reader if frame.pts is not None and frame.pts >= pts), None)
