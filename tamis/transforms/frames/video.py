"""Opening a video of any kind as frames that can be asked for by number, exactly.

A source is a path, bytes, ``{"path", "bytes"}`` as `datasets.Video(decode=False)` gives it, a torchcodec
`VideoDecoder` (`datasets.Video()`), a uint8 tensor [T, C, H, W], an array [T, H, W, C] or a list of PIL images.

Files are read by torchcodec where it works and by PyAV otherwise. torchcodec can be imported without FFmpeg and fails
only when a decoder is constructed, so that is what is tried. A file that lacks frames it promises is an error, because
a selector would silently choose among fewer. Frames that an edit list hides (a trimmed copy) are not lacking.
"""

from __future__ import annotations

import os

import numpy as np
import torch

from tamis.core.checks import check_choice
from tamis.core.types import FrameDecoder, VideoSource
from tamis.transforms.frames.pyav import PyAVFrames
from tamis.transforms.frames.readers import ImageFrames, TensorFrames, TorchcodecFrames, VideoError, VideoFrames

__all__ = ["BACKENDS", "VideoError", "VideoFrames", "open_video"]

BACKENDS = ("auto", "torchcodec", "pyav")


def open_video(source: VideoSource, name: str = "?", *, backend: str = "auto") -> VideoFrames:
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
    held: object = source
    if isinstance(held, dict) and ("bytes" in held or "path" in held):
        path, content = held.get("path"), held.get("bytes")
        name = str(path) if path else name
        held = content if content is not None else path
    if held is None:
        raise VideoError(f"video {name}: is None; leave rows without a video out")
    if isinstance(held, (str, os.PathLike)):
        name, held = str(held), os.fspath(held)
        if not os.path.isfile(held):
            raise VideoError(f"video {name}: {'is a folder; give a file' if os.path.isdir(held) else 'no such file'}")
    if isinstance(held, (str, bytes)):
        if not (len(held) if isinstance(held, bytes) else os.path.getsize(held)):
            raise VideoError(f"video {name}: is empty, 0 bytes")
        return _open_file(held, name, backend)
    if isinstance(held, FrameDecoder):
        return TorchcodecFrames(held, name)
    if isinstance(held, (torch.Tensor, np.ndarray)):
        return TensorFrames(_as_tensor(held, name), name)
    if isinstance(held, (list, tuple)) and held and all(hasattr(image, "convert") for image in held):
        return ImageFrames(list(held), name)
    if isinstance(held, (list, tuple)) and not held:
        raise VideoError(f"video {name}: has no frames")
    raise TypeError(
        f"video {name}: got {type(held).__name__}; give a path, bytes, a torchcodec decoder, a uint8 tensor "
        "[T, C, H, W] or a list of PIL images"
    )


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
