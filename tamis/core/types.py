"""Names for what users bring along: data sets, batches, optimizers, videos, figures, trainers.

Protocols say what tamis calls, aliases what a value may be; `Any` stays for values that really can be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union, runtime_checkable

import numpy as np
import torch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from transformers import Trainer
else:
    Accelerator = Figure = Image = Trainer = object

__all__ = [
    "Accelerator",
    "ArrayLike",
    "Batch",
    "Collate",
    "Figure",
    "FrameDecoder",
    "Image",
    "ImageLike",
    "JsonState",
    "Label",
    "MapDataset",
    "OptimizerLike",
    "PathOrStr",
    "Stateful",
    "TrainerLike",
    "VideoSource",
]

PathOrStr: TypeAlias = Union[str, "PathLike[str]"]
#: What a loader yields: a mapping of keywords, a tuple of arguments, or one tensor.
Batch: TypeAlias = Mapping[str, Any] | Sequence[Any] | torch.Tensor
#: Makes a batch of a list of items, as `torch.utils.data.default_collate`.
Collate: TypeAlias = Callable[[list[Any]], Any]
#: Numbers of one dtype and shape.
ArrayLike: TypeAlias = Sequence[float] | np.ndarray | torch.Tensor
#: JSON values and tensors, as `tamis.core.to_jsonable` takes them.
JsonState: TypeAlias = dict[str, Any]
#: A PIL image (mode L or RGB) or a uint8 tensor [1 or 3, H, W].
ImageLike: TypeAlias = Union["Image", torch.Tensor]
#: A label that names one class: its number (an int, an integer tensor or array of one value) or its name.
Label: TypeAlias = int | str | torch.Tensor | np.ndarray | np.generic
TrainerLike: TypeAlias = "Trainer"


@runtime_checkable
class FrameDecoder(Protocol):
    """An open video that gives frames by number, as torchcodec's `VideoDecoder` and what `datasets.Video()` makes."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def get_frames_at(self, indices: list[int]) -> Any:
        """These frames: an object whose ``data`` is uint8 [k, C, H, W] or [k, H, W, C]."""
        ...


#: A path, a file's bytes, ``{"path": ..., "bytes": ...}`` as `datasets.Video(decode=False)` gives it, a decoder, a
#: uint8 tensor [T, 1 or 3, H, W], a uint8 array [T, H, W, 1 or 3], or a list of PIL images.
VideoSource: TypeAlias = Union[
    str,
    "PathLike[str]",
    bytes,
    Mapping[str, str | bytes | None],
    FrameDecoder,
    torch.Tensor,
    np.ndarray,
    Sequence["Image"],
]


class MapDataset(Protocol):
    """A map-style data set: ``len`` and items by number, as `torch.utils.data.Dataset` and `datasets.Dataset`."""

    def __len__(self) -> int:
        """Number of items."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Item ``index``, in [0, len)."""
        ...


@runtime_checkable
class WrappedOptimizer(Protocol):
    """A wrapper around an optimizer, as Accelerate's."""

    optimizer: torch.optim.Optimizer


OptimizerLike: TypeAlias = torch.optim.Optimizer | WrappedOptimizer | Sequence[torch.optim.Optimizer]


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state can be saved and restored."""

    def state_dict(self) -> JsonState:
        """JSON values and tensors."""
        ...

    def load_state_dict(self, state: JsonState, /) -> None:
        """Restore what `state_dict` gave."""
        ...
