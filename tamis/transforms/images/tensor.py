"""The operations on batches of uint8 images, each with its own operations and magnitudes, on any device.

Bit-equal to torchvision's tensor kernels on the CPU, because everything a kernel decides is taken from it as a table:

- a geometric operation is the kernel applied once to the pixels' own coordinates: which source pixel each target
  pixel shows. Applying it is a gather;
- Invert, Solarize, Posterize, Brightness and Contrast are the kernel applied to 0..255;
- Color and Sharpness are a function of two bytes (the pixel, and its grey or blurred value): a table of 65,536;
- AutoContrast and Equalize are torchvision's, which take a batch.

Contrast's mean is an exact sum; torchvision adds in float32, which is the same up to 65,793 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from tamis.transforms.images.ops import ADDED, CUTOUT_COLOUR, KERNELS, Drawn, affine_matrix, cutout_box

__all__ = ["apply_batch", "source_map"]

_KEPT = 256 * 256  # pixels up to which source maps are kept (256 KiB each, 128 of them)


def apply_batch(images: Tensor, drawn: Sequence[Sequence[Drawn]]) -> Tensor:
    """Apply to each image its own operations, in their order.

    Args:
        images: uint8 [B, 1 or 3, H, W].
        drawn: B sequences of the same length.

    Returns:
        A new uint8 [B, C, H, W] on the same device.
    """
    images = images.clone()
    for place in range(len(drawn[0]) if drawn else 0):
        groups: dict[str, list[int]] = {}
        for row, operations in enumerate(drawn):
            groups.setdefault(_group(operations[place]), []).append(row)
        for name, rows in groups.items():
            if name != "Identity":
                picked = torch.tensor(rows, device=images.device)
                todo = [drawn[row][place] for row in rows]
                images[picked] = _KERNELS.get(name, _added)(images[picked], todo)
    return images


# ---- geometric operations


def source_map(op: int, value: float, height: int, width: int, device: torch.device) -> Tensor:
    """Which source pixel each target pixel shows.

    Args:
        op: the place of a shear, translation or rotation in `KERNELS`.
        value: its magnitude.
        height: of the image, in pixels.
        width: of the image, in pixels.
        device: where the map is wanted.

    Returns:
        int32 [H * W]: the pixel's number, row by row, or H * W where it lies outside.
    """
    if height * width <= _KEPT:
        return _kept_map(op, value, height, width, device)
    return _make_map(op, value, height, width).to(device)


def _make_map(op: int, value: float, height: int, width: int) -> Tensor:
    if affine_matrix(op, value, width, height) is None:
        return torch.arange(height * width, dtype=torch.int32)
    rows = torch.arange(1, height + 1, dtype=torch.float32)[:, None].expand(height, width)
    columns = torch.arange(1, width + 1, dtype=torch.float32).expand(height, width)
    moved = _geometric(torch.stack([rows, columns]), op, value).round().to(torch.int32)
    number = (moved[0] - 1) * width + moved[1] - 1
    return torch.where(moved[0] == 0, height * width, number).flatten().to(torch.int32)


@lru_cache(maxsize=128)
def _kept_map(op: int, value: float, height: int, width: int, device: torch.device) -> Tensor:
    return _make_map(op, value, height, width).to(device)


def _geometric(image: Tensor, op: int, value: float) -> Tensor:
    """Torchvision's own kernel, as its AutoAugment classes call it."""
    import math

    from torchvision.transforms.v2 import functional as F

    name = KERNELS[op]
    height, width = image.shape[-2:]
    if name == "Rotate":
        return F.rotate(image, value)  # type: ignore[no-any-return]
    shift, shear, center = [0, 0], [0.0, 0.0], None
    if name.startswith("Translate"):
        shift = [int(value * width), 0] if name == "TranslateX" else [0, int(value * height)]
    elif name.startswith("Shift"):
        shift = [int(value), 0] if name == "ShiftX" else [0, int(value)]
    else:
        angle = math.degrees(math.atan(value))
        shear, center = [angle, 0.0] if name == "ShearX" else [0.0, angle], [0, 0]
    return F.affine(image, angle=0.0, translate=shift, scale=1.0, shear=shear, center=center)  # type: ignore[no-any-return]


def _move(images: Tensor, drawn: list[Drawn]) -> Tensor:
    count, channels, height, width = images.shape
    maps = [source_map(d.op, d.magnitude, height, width, images.device) for d in drawn]
    padded = torch.nn.functional.pad(images.flatten(2), (0, 1))
    if images.device.type == "cpu":  # numpy's take is several times quicker than torch's gather there
        moved = [pixels.take(places.numpy(), 1) for pixels, places in zip(padded.numpy(), maps, strict=True)]
        return torch.from_numpy(np.stack(moved)).view_as(images)
    places = torch.stack(maps).long()[:, None].expand(count, channels, height * width)
    return padded.gather(2, places).view_as(images)


# ---- point operations


@cache
def _table(op: int, value: float) -> Tensor:
    """What the kernel makes of 0..255: uint8 [256]."""
    from torchvision.transforms.v2 import functional as F

    ramp, name = torch.arange(256, dtype=torch.uint8).view(1, 1, 256), KERNELS[op]
    kernels: dict[str, Callable[[], Tensor]] = {
        "Invert": lambda: F.invert(ramp),
        "Solarize": lambda: F.solarize(ramp, value),
        "Posterize": lambda: F.posterize(ramp, int(value)),
        "Brightness": lambda: F.adjust_brightness(ramp, value),
    }
    return kernels[name]().flatten()


def _look_up(images: Tensor, drawn: list[Drawn]) -> Tensor:
    return _by_tables(images, [_table(d.op, d.magnitude) for d in drawn])


def _by_tables(images: Tensor, tables: list[Tensor]) -> Tensor:
    """Look every byte of an image up in its table [256]."""
    if images.device.type == "cpu":  # bytes.translate needs no index per pixel
        found = [image.numpy().tobytes().translate(table.numpy().tobytes())
                 for image, table in zip(images, tables, strict=True)]  # fmt: skip
        return torch.frombuffer(bytearray(b"".join(found)), dtype=torch.uint8).view_as(images)
    return torch.stack(tables).to(images.device).gather(1, images.flatten(1).long()).view_as(images)


def _contrast(images: Tensor, drawn: list[Drawn]) -> Tensor:
    grey = _grey(images)
    means = (grey.flatten(1).sum(1).to(torch.float32) / grey[0].numel()).cpu()
    ramp = torch.arange(256, dtype=torch.uint8)
    blends = [_blend(ramp, mean.expand(256).clone(), d.magnitude)
              for mean, d in zip(means, drawn, strict=True)]  # fmt: skip
    return _by_tables(images, blends)


def _autocontrast(images: Tensor, drawn: list[Drawn]) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.autocontrast(images)  # type: ignore[no-any-return]


def _equalize(images: Tensor, drawn: list[Drawn]) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return F.equalize(images)  # type: ignore[no-any-return]


def _grey(images: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    return images if images.shape[1] == 1 else F.rgb_to_grayscale(images)


def _blend(first: Tensor, second: Tensor, ratio: float) -> Tensor:
    """Torchvision's blend of a uint8 with a float tensor, operation by operation."""
    return first.mul(ratio).add_(second, alpha=1.0 - ratio).clamp_(0, 255).to(torch.uint8)


# ---- operations of two bytes


@cache
def _pair_table(op: int, value: float) -> Tensor:
    """Color or Sharpness of each (other value, pixel): uint8 [256 * 256]."""
    pixel = torch.arange(256, dtype=torch.uint8).expand(256, 256)
    other = torch.arange(256, dtype=torch.float32)[:, None].expand(256, 256)
    if KERNELS[op] == "Color":
        return _blend(pixel, other, value).flatten()
    start = pixel.to(torch.float32)
    return start.clone().add_(other - start, alpha=1.0 - value).clamp_(0, 255).to(torch.uint8).flatten()


def _by_pairs(images: Tensor, others: Tensor, drawn: list[Drawn]) -> Tensor:
    if images.device.type == "cpu":
        pairs = (others.numpy().astype(np.uint16) << 8) + images.numpy()
        found = [_pair_table(d.op, d.magnitude).numpy().take(pair) for d, pair in zip(drawn, pairs, strict=True)]
        return torch.from_numpy(np.stack(found))
    kinds = sorted({(d.op, d.magnitude) for d in drawn})
    tables = torch.cat([_pair_table(*kind) for kind in kinds]).to(images.device)
    start = torch.tensor([kinds.index((d.op, d.magnitude)) for d in drawn], device=images.device) * 65536
    return tables[start.view(-1, 1, 1, 1) + others.long() * 256 + images]


def _color(images: Tensor, drawn: list[Drawn]) -> Tensor:
    return images if images.shape[1] == 1 else _by_pairs(images, _grey(images), drawn)


def _sharpness(images: Tensor, drawn: list[Drawn]) -> Tensor:
    if min(images.shape[-2:]) <= 2:
        return images
    wide = images.short()  # sums stay below 3,400
    total = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    total = total[..., :-2] + total[..., 1:-1] + total[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    wide[..., 1:-1, 1:-1] = (total + 6) // 13  # the nearest integer: 13 is odd, so there are no ties
    return _by_pairs(images, wide, drawn)


def _cutout(images: Tensor, drawn: list[Drawn]) -> Tensor:
    height, width = images.shape[-2:]
    boxes = torch.tensor([cutout_box(d, width, height) or (0, 0, 0, 0) for d in drawn], device=images.device)
    left, top, right, bottom = boxes.view(-1, 4, 1, 1, 1).unbind(1)
    rows = torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=images.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    colour = torch.tensor(CUTOUT_COLOUR if images.shape[1] == 3 else (255,), dtype=torch.uint8, device=images.device)
    return torch.where(inside, colour.view(1, -1, 1, 1), images)


def _flipped(*sides: int) -> Callable[[Tensor, list[Drawn]], Tensor]:
    return lambda images, drawn: images.flip(sides)


def _added(images: Tensor, drawn: list[Drawn]) -> Tensor:
    """An operation that `add_operation` brought: images of one magnitude in one go."""
    out, values = images.clone(), [d.magnitude for d in drawn]
    for value in dict.fromkeys(values):
        rows = [row for row, other in enumerate(values) if other == value]
        out[rows] = ADDED[drawn[0].op](images[rows], value)
    return out


def _group(drawn: Drawn) -> str:
    name = KERNELS[drawn.op]
    return _GROUP.get(name, name)


_KERNELS: dict[str, Callable[[Tensor, list[Drawn]], Tensor]] = {
    "HorizontalFlip": _flipped(-1),
    "VerticalFlip": _flipped(-2),
    "HalfTurn": _flipped(-1, -2),
    "move": _move,
    "table": _look_up,
    "Contrast": _contrast,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Color": _color,
    "Sharpness": _sharpness,
    "Cutout": _cutout,
}
_GROUP = dict.fromkeys(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "ShiftX", "ShiftY"), "move")
_GROUP |= dict.fromkeys(("Invert", "Solarize", "Posterize", "Brightness"), "table")
