"""A cheap feature for every frame: small grey pixels, projected on their principal components, with neighbours.

Selecting needs a feature of each candidate frame, and a feature that costs as much as the model defeats the purpose.
This one costs a read at thumbnail size and one small matrix product. Any other encoder is an object with ``size`` and
a call uint8 [m, 3, h, w] -> float [m, d].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from tamis.core.checks import check_int
from tamis.policy.info import fingerprint

__all__ = ["FrameEncoder", "PixelEncoder"]


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
        mean: float32 [h w], subtracted.
        components: float32 [d0, h w].
        neighbours: frames before and after that are appended (the first and last repeat): d = d0 (2 neighbours + 1).
        centred: each clip's mean over the frames looked at is subtracted first. For a fixed camera, where what moves is
            what tells; not where the scene itself is the class, nor for single pictures.
    """

    size: tuple[int, int]
    mean: torch.Tensor
    components: torch.Tensor
    neighbours: int = 0
    centred: bool = False

    def __post_init__(self) -> None:
        pixels = self.size[0] * self.size[1]
        check_int("neighbours", self.neighbours, low=0)
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
    ) -> PixelEncoder:
        """Principal components of the frames of ``clips``, in one pass.

        Args:
            clips: uint8 [m, 3, h, w] each, frames at ``size``.
            size: of the thumbnails.
            dim: d0, at most h w.
            neighbours: as the attribute.
            whiten: scale each component to variance 1.
            centred: as the attribute.

        Raises:
            ValueError: no clips, or of another size.
        """
        check_int("dim", dim, low=1, high=size[0] * size[1])
        count, total, square = 0, np.zeros(size[0] * size[1]), np.zeros((size[0] * size[1],) * 2)
        for clip in clips:
            grey = _grey(clip, size, centred).double().numpy()
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
        return cls(size, torch.from_numpy(mean).float(), rows, neighbours, centred)

    def __call__(self, frames: torch.Tensor) -> np.ndarray:
        plain = ((_grey(frames, self.size, self.centred) - self.mean) @ self.components.T).numpy()
        places = np.arange(len(plain))
        shifts: Sequence[int] = range(-self.neighbours, self.neighbours + 1)
        return np.concatenate([plain[np.clip(places + by, 0, len(plain) - 1)] for by in shifts], axis=1)

    @property
    def dim(self) -> int:
        """Size of a feature, d."""
        return len(self.components) * (2 * self.neighbours + 1)

    def digest(self) -> str:
        """sha256 over everything that shapes the features."""
        return fingerprint(list(self.size), self.neighbours, self.centred, self.mean, self.components)


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


def _grey(frames: torch.Tensor, size: tuple[int, int], centred: bool) -> torch.Tensor:
    grey = thumbnails(frames, size)
    return grey - grey.mean(0) if centred else grey
