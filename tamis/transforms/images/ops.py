"""The 16 operations of AutoAugment: their magnitudes, how they are drawn, and their geometry.

E. D. Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", 2019, with the ranges that the authors
of LA3 use ("LA3: Efficient Label-Aware AutoAugment", Zhao et al., ECCV 2022). The kernels are in `pil` and
`tensor`, the door to both in `apply`.

============ ================= ========================================================================
operation    magnitude         meaning
============ ================= ========================================================================
ShearX/Y     -0.3 .. 0.3       slope; mirrored at random
TranslateX/Y -0.45 .. 0.45     share of width or height, in whole pixels; mirrored at random
Rotate       -30 .. 30         degrees counter-clockwise; mirrored at random
Solarize     0 .. 256          values from this one upwards are inverted
Posterize    4 .. 8            bits kept
Contrast,    0.1 .. 1.9        factor; 1 changes nothing
Color,
Brightness,
Sharpness
Cutout       0 .. 0.2          side of the square, as a share of the width
AutoContrast, Equalize, Invert, Identity: none
============ ================= ========================================================================

A menu (`menu`) has more: HorizontalFlip, VerticalFlip, HalfTurn (by 180 degrees), TranslateX and TranslateY by whole
pixels instead of shares, and whatever `add_operation` brings. Their places come after the 16, and their magnitudes
are values instead of codes.

A magnitude is drawn as a *code*, 0 to 19: twice the level, plus 1 if it is mirrored. Level k of 10 is ``low + k / 10 *
(high - low)``, so that the upper end is never used, as in the authors' code.

**Deviations** from the authors' code: a translation is rounded towards 0 to whole pixels and a shear goes through
its angle, as in torchvision, so that both are bit-equal to torchvision's; pixels that come from outside are black.

**Unstated** in the text: what Cutout paints. The authors' code paints (125, 123, 114), 255 on grey images, a square
of ``int(side) + 1`` pixels cut at the border, and so do we.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = [
    "CODES",
    "IDENTITY",
    "KERNELS",
    "OPERATIONS",
    "RANGES",
    "Drawn",
    "Kernel",
    "affine_matrix",
    "check_image",
    "cutout_box",
    "draw",
    "magnitude",
]

OPERATIONS = (
    "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "AutoContrast", "Invert", "Equalize", "Solarize",
    "Posterize", "Contrast", "Color", "Brightness", "Sharpness", "Cutout", "Identity",
)  # fmt: skip
#: Names by place: the 16, those that only a menu has, and those that were added.
KERNELS = [*OPERATIONS, "HorizontalFlip", "VerticalFlip", "HalfTurn", "ShiftX", "ShiftY"]
RANGES = {
    "ShearX": (-0.3, 0.3),
    "ShearY": (-0.3, 0.3),
    "TranslateX": (-0.45, 0.45),
    "TranslateY": (-0.45, 0.45),
    "Rotate": (-30.0, 30.0),
    "Solarize": (0.0, 256.0),
    "Posterize": (4.0, 8.0),
    "Contrast": (0.1, 1.9),
    "Color": (0.1, 1.9),
    "Brightness": (0.1, 1.9),
    "Sharpness": (0.1, 1.9),
    "Cutout": (0.0, 0.2),
}
CODES = 20
IDENTITY = OPERATIONS.index("Identity")
CUTOUT_COLOUR = (125, 123, 114)
_MIRRORED = frozenset(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"))
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_STREAM = struct.Struct("<QI9I")

Matrix = tuple[float, float, float, float, float, float]
#: An added operation: a PIL image or a uint8 tensor [..., C, H, W], and a magnitude; gives the same kind of image.
Kernel = Callable[[Any, float], Any]
ADDED: dict[int, Kernel] = {}  # by place in `KERNELS`


class Drawn(NamedTuple):
    """One operation, ready to be applied.

    Attributes:
        op: its place in `KERNELS`, which begins with `OPERATIONS`.
        code: its magnitude, 0 to 19.
        x: where a Cutout lies, as a share of the width, in [0, 1).
        y: the same for the height.
        value: the magnitude itself, in the operation's unit; None: what ``code`` stands for.
    """

    op: int
    code: int
    x: float = 0.5
    y: float = 0.5
    value: float | None = None

    @property
    def magnitude(self) -> float:
        """The magnitude in the operation's unit."""
        return magnitude(self.op, self.code) if self.value is None else self.value


@cache
def magnitude(op: int, code: int) -> float:
    """The value that ``code`` stands for.

    Args:
        op: a place in `OPERATIONS`.
        code: 0 to 19.

    Returns:
        In the operation's range (see the module), 0.0 for operations without a magnitude.
    """
    name = OPERATIONS[op]
    if name not in RANGES:
        return 0.0
    low, high = RANGES[name]
    value = (code // 2) / (CODES // 2) * (high - low) + low
    return -value if name in _MIRRORED and code % 2 else value


def draw(triples: np.ndarray | Sequence[Sequence[int]], key: Sequence[int], *, shuffle: bool = False) -> list[Drawn]:
    """One of ``triples`` with its magnitudes: a pure function of ``key``.

    Args:
        triples: operation ids, [N, 3].
        key: integers that name the draw, e.g. (seed, epoch, index, copy), each in [0, 2**63).
        shuffle: also draw the order of the three.
    """
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=_STREAM.size).digest()
    pick, order, *words = _STREAM.unpack(digest)
    triple = triples[(pick * len(triples)) >> 64]
    places = _ORDERS[(order * len(_ORDERS)) >> 32] if shuffle else _ORDERS[0]
    return [
        Drawn(int(triple[place]), (words[at] * CODES) >> 32, words[at + 1] / 2**32, words[at + 2] / 2**32)
        for at, place in zip((0, 3, 6), places, strict=True)
    ]


def check_image(image: object) -> str:
    """Return ``"pil"`` or ``"tensor"`` if the operations are defined for ``image``.

    Raises:
        TypeError: not an image, or not of 8 bits.
        ValueError: channels other than 1 or 3, an empty image, a batch.
    """
    if isinstance(image, torch.Tensor):
        if image.dtype != torch.uint8:
            raise TypeError(
                f"image: a tensor of {str(image.dtype).removeprefix('torch.')}: must be uint8 in 0..255; put the "
                "transform before v2.ToDtype and v2.Normalize"
            )
        if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
            cure = "use augment.batch for a batch" if image.ndim == 4 else "drop the alpha channel (RGB) first"
            raise ValueError(f"image: a tensor of shape {list(image.shape)}: must be [1 or 3, H, W], not empty; {cure}")
        return "tensor"
    mode, size = getattr(image, "mode", None), getattr(image, "size", None)
    if not isinstance(mode, str) or not isinstance(size, tuple):
        cure = "; use Image.fromarray(image)" if isinstance(image, np.ndarray) else ""
        raise TypeError(f"image: got {type(image).__name__}; must be a PIL image or a uint8 tensor [C, H, W]{cure}")
    if mode not in ("L", "RGB") or 0 in size:
        raise ValueError(f"image: mode {mode!r}, size {size}: must be 'L' or 'RGB', not empty; use .convert('RGB')")
    return "pil"


@cache
def affine_matrix(
    op: int, value: float, width: int, height: int
) -> tuple[float, float, float, float, float, float] | None:
    """The map (a, b, c, d, e, f) from target to source pixels: x' = a x + b y + c, y' = d x + e y + f.

    The arithmetic is torchvision's (shear, translation) and PIL's (rotation), step by step, so that every bit agrees.

    Args:
        op: the place of a shear, translation or rotation in `KERNELS`.
        value: its magnitude.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        The map, or None if nothing moves.
    """
    name = KERNELS[op]
    if name in ("TranslateX", "TranslateY", "ShiftX", "ShiftY"):
        along = name[-1] == "X"
        pixels = int(value * (width if along else height) if name.startswith("Translate") else value)
        if pixels == 0:
            return None
        return (1.0, 0.0, -float(pixels), 0.0, 1.0, 0.0) if along else (1.0, 0.0, 0.0, 0.0, 1.0, -float(pixels))
    if value == 0:
        return None
    if name == "Rotate":
        angle = -math.radians(value % 360.0)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        minus_sin, cx, cy = round(-math.sin(angle), 15), width / 2, height / 2
        return cos, sin, cos * -cx + sin * -cy + cx, minus_sin, cos, minus_sin * -cx + cos * -cy + cy
    angle = math.radians(math.degrees(math.atan(value)))
    if name == "ShearX":
        return 1.0, math.tan(angle), 0.0, 0.0, 1.0, 0.0
    return 1.0, 0.0, 0.0, -(math.sin(-angle) / math.cos(angle)), 1.0, 0.0


def cutout_box(drawn: Drawn, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The square that a Cutout paints.

    Args:
        drawn: the Cutout.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        (left, top, right, bottom), right and bottom exclusive; None at level 0.
    """
    side = drawn.magnitude * width
    if side <= 0:
        return None
    left, top = (int(max(0.0, at * size - side / 2)) for at, size in ((drawn.x, width), (drawn.y, height)))
    return left, top, min(width, int(left + side) + 1), min(height, int(top + side) + 1)
