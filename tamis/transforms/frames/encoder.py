"""A cheap feature for every frame: small grey pixels, projected on their principal components, with neighbours.

Selecting needs a feature of each candidate frame, and a feature that costs as much as the model defeats the purpose.
This one costs a read at thumbnail size and one small matrix product. `tamis.transforms.frames.backbones` makes encoders
of image models; any other encoder is an object with ``size`` and a call uint8 [m, 3, h, w] -> float [m, d].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import nn

from tamis.core.checks import check_int
from tamis.policy.info import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FrameEncoder", "MotionEncoder", "PixelEncoder", "liveliest"]


class FrameEncoder(Protocol):
    """Features of frames."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at which it wants the frames."""
        ...

    def __call__(self, frames: torch.Tensor) -> np.ndarray | torch.Tensor:
        """All candidates of a clip in order of time, uint8 [m, 3, h, w] -> [m, d]."""
        ...


@dataclass(frozen=True, eq=False)
class PixelEncoder:
    """Grey thumbnails through principal components, each frame beside its neighbours in time.

    Attributes:
        size: (height, width) of the thumbnails.
        mean: float32 [h w], subtracted; h and w are those of ``piece`` if there is one.
        components: float32 [d0, h w].
        neighbours: frames before and after that are appended (the first and last repeat): d = d0 (2 neighbours + 1).
        centred: each clip's mean over the frames looked at is subtracted first. For a fixed camera, where what moves is
            what tells; not where the scene itself is the class, nor for single pictures.
        piece: (height, width) of the piece of each clip that moves most, see `liveliest`; the rest is not looked at.
            (0, 0): the whole picture.
        context: which frames are appended, in place of ``neighbours``: -2 is the one before the one before, 0 the frame
            itself. Frames beyond the clip are its first or last.
    """

    size: tuple[int, int]
    mean: torch.Tensor
    components: torch.Tensor
    neighbours: int = 0
    centred: bool = False
    piece: tuple[int, int] = (0, 0)
    context: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_piece(self.size, self.piece)
        height, width = self.piece if any(self.piece) else self.size
        pixels = height * width
        check_int("neighbours", self.neighbours, low=0)
        if self.context and self.neighbours:
            raise ValueError(
                f"context={self.context}: takes the place of neighbours={self.neighbours}; give one of them"
            )
        if self.mean.shape != (pixels,) or self.components.ndim != 2 or self.components.shape[1] != pixels:
            raise ValueError(f"components={list(self.components.shape)}: must be [d, {pixels}], and mean [{pixels}]")

    @classmethod
    def pixels(cls, size: tuple[int, int] = (12, 16)) -> PixelEncoder:
        """Without fitting: the thumbnails themselves."""
        count = size[0] * size[1]
        return cls(size, torch.full((count,), 0.5), torch.eye(count))

    @classmethod
    def fit(
        cls,
        clips: Iterable[torch.Tensor],
        *,
        size: tuple[int, int] = (32, 48),
        dim: int = 48,
        neighbours: int = 1,
        whiten: bool = True,
        centred: bool = False,
        piece: tuple[int, int] = (0, 0),
        context: tuple[int, ...] = (),
    ) -> Self:
        """Principal components of the frames of ``clips``, in one pass.

        Args:
            clips: uint8 [m, 3, h, w] each, frames at ``size``.
            size: of the thumbnails.
            dim: d0, at most h w (of the piece, if there is one).
            neighbours: as the attribute.
            whiten: scale each component to variance 1.
            centred: as the attribute.
            piece: as the attribute.
            context: as the attribute.

        Raises:
            ValueError: no clips, or of another size.
        """
        check_piece(size, piece)
        height, width = piece if any(piece) else size
        pixels = height * width
        check_int("dim", dim, low=1, high=pixels)
        count, total, square = 0, np.zeros(pixels), np.zeros((pixels, pixels))
        for clip in clips:
            grey = _grey(clip, size, centred, piece).double().numpy()
            count, total = count + len(grey), total + grey.sum(0)
            square += grey.T @ grey
        if not count:
            raise ValueError("clips: must hold at least one clip")
        mean = total / count
        values, vectors = np.linalg.eigh(square / count - np.outer(mean, mean))
        components = vectors[:, ::-1][:, :dim].T
        components *= np.sign(components[np.arange(dim), np.abs(components).argmax(1)])[:, None]
        if whiten:
            components = components / np.sqrt(np.maximum(values[::-1][:dim, None], 1e-12 * max(values[-1], 1e-12)))
        rows = torch.from_numpy(np.ascontiguousarray(components)).float()
        return cls(size, torch.from_numpy(mean).float(), rows, neighbours, centred, piece, context)

    def __call__(self, frames: torch.Tensor) -> np.ndarray:
        plain = ((_grey(frames, self.size, self.centred, self.piece) - self.mean) @ self.components.T).numpy()
        places = np.arange(len(plain))
        return np.concatenate([plain[np.clip(places + by, 0, len(plain) - 1)] for by in self._shifts], axis=1)

    @property
    def _shifts(self) -> Sequence[int]:
        return self.context or range(-self.neighbours, self.neighbours + 1)

    @property
    def dim(self) -> int:
        """Size of a feature, d."""
        return len(self.components) * len(self._shifts)

    def digest(self) -> str:
        """sha256 over everything that shapes the features."""
        more = [list(self.piece), list(self.context)] if any(self.piece) or self.context else []
        return fingerprint(list(self.size), self.neighbours, self.centred, self.mean, self.components, *more)


class MotionEncoder(PixelEncoder):
    """A `PixelEncoder` of the piece of each clip that moves most, at higher resolution, minus the clip's mean.

    For a fixed camera, where a small part of the picture tells: lips, a hand, a ball. No label is needed to find it.
    """

    @classmethod
    def fit(
        cls,
        clips: Iterable[torch.Tensor],
        *,
        size: tuple[int, int] = (96, 120),
        dim: int = 48,
        neighbours: int = 0,
        whiten: bool = True,
        centred: bool = True,
        piece: tuple[int, int] = (32, 48),
        context: tuple[int, ...] = (-4, -2, 0, 2, 4),
    ) -> Self:
        """As `PixelEncoder.fit`.

        Args:
            clips: uint8 [m, 3, h, w] each, frames at ``size``.
            size: of the pictures that are read.
            dim: d0, at most h w of the piece.
            neighbours: 0, unless ``context`` is empty.
            whiten: scale each component to variance 1.
            centred: each clip's mean is subtracted.
            piece: (height, width) of the piece, in pixels of ``size``.
            context: the frames that make a feature, as the attribute.

        Raises:
            ValueError: no clips, or of another size.
        """
        return super().fit(
            clips, size=size, dim=dim, neighbours=neighbours, whiten=whiten, centred=centred, piece=piece,
            context=context,
        )  # fmt: skip


def liveliest(frames: torch.Tensor, piece: tuple[int, int]) -> torch.Tensor:
    """The piece of a clip with the largest mean change from one frame to the next, the same place in all its frames.

    Args:
        frames: [m, H, W], m >= 1; of a single frame, or one that never changes, the top left piece.
        piece: (h, w), at most (H, W).

    Returns:
        [m, h, w]
    """
    height, width = piece
    change = frames.diff(dim=0).abs().sum(0).double()
    sums = nn.functional.pad(change.cumsum(0).cumsum(1), (1, 0, 1, 0))
    moved = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = divmod(int(moved.argmax()), moved.shape[1])
    return frames[:, top : top + height, left : left + width]


def check_piece(size: tuple[int, int], piece: tuple[int, int]) -> None:
    """Refuse a piece that is not inside the picture.

    Args:
        size: (H, W) of the picture.
        piece: (h, w), or (0, 0).

    Raises:
        ValueError: with what it must be.
    """
    if any(piece) and not (0 < piece[0] <= size[0] and 0 < piece[1] <= size[1]):
        raise ValueError(
            f"piece={tuple(piece)}: must be (height, width) within size={tuple(size)}, or (0, 0) for all of it"
        )


def thumbnails(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Grey values in [0, 1].

    Args:
        frames: [m, 3, h, w] uint8.
        size: (h, w).

    Returns:
        [m, h w] float32.

    Raises:
        ValueError: frames of another size.
    """
    if tuple(frames.shape[1:]) != (3, *size):
        raise ValueError(f"frames={list(frames.shape)}: must be [m, 3, {size[0]}, {size[1]}]")
    weights = torch.tensor([0.299, 0.587, 0.114]) / 255
    return torch.einsum("mchw,c->mhw", frames.float(), weights).flatten(1)


def _grey(frames: torch.Tensor, size: tuple[int, int], centred: bool, piece: tuple[int, int]) -> torch.Tensor:
    """[m, h w] of the piece, or of the picture."""
    grey = thumbnails(frames, size)
    if any(piece):
        grey = liveliest(grey.view(-1, *size), piece).flatten(1)
    return grey - grey.mean(0) if centred else grey
