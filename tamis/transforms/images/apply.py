"""One door to the operations for every kind of image: PIL's kernels or the tensors'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch

from tamis.core.extras import missing
from tamis.core.types import Image, ImageLike
from tamis.transforms.images.ops import Drawn, check_image
from tamis.transforms.images.pil import apply_pil
from tamis.transforms.images.tensor import apply_batch

__all__ = ["apply_operations"]


@overload
def apply_operations(image: Image, drawn: Sequence[Drawn], *, fast: bool = False) -> Image: ...
@overload
def apply_operations(image: torch.Tensor, drawn: Sequence[Drawn], *, fast: bool = False) -> torch.Tensor: ...
def apply_operations(image: ImageLike, drawn: Sequence[Drawn], *, fast: bool = False) -> ImageLike:
    """Apply operations in their order.

    On PIL images the result is bit-equal to PIL's and torchvision's own, one after the other; on uint8 tensors to
    torchvision's tensor kernels (which differ from PIL by rounding), on any device.

    Args:
        image: PIL image of mode L or RGB, or uint8 tensor [1 or 3, H, W].
        drawn: the operations.
        fast: PIL only: neighbouring geometric operations are done in one go. That rounds once instead of twice or
            thrice, and what one of them pushes out of the frame the next can bring back.

    Raises:
        TypeError, ValueError: as `check_image`.
        ImportError: Pillow or torchvision is not installed.
    """
    check_image(image)
    try:
        if isinstance(image, torch.Tensor):
            return apply_batch(image.unsqueeze(0), [drawn]).squeeze(0)
        return apply_pil(image, drawn, fast=fast)
    except ModuleNotFoundError as error:
        raise missing("vision", "operations on images", error) from error
