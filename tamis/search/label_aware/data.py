"""Held-out images in memory, checked, and the names of their classes."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tamis.core.errors import TamisError
from tamis.policy.info import describe_data
from tamis.transforms.images.ops import check_image
from tamis.transforms.label_aware.samples import sample_keys

__all__ = ["class_names", "read_images", "warn_of_chance", "warn_of_empty"]


def read_images(data: Any, classes: int) -> tuple[Tensor, Tensor]:
    """All images and labels, checked: uint8 [N, C, H, W] and int64 [N].

    Args:
        data: map-style (image, label, ...), PIL or uint8 tensors of one size; or a pair of tensors, uint8
            [N, C, H, W] and integers [N].
        classes: how many there are.

    Raises:
        TypeError, ValueError: other data, or labels outside the classes.
    """
    _refuse(data)
    if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], Tensor) and data[0].ndim == 4:
        images, labels = data[0], torch.as_tensor(data[1]).cpu()
        for image in images[:1]:
            check_image(image)
    else:
        pairs = [_pair(data[number], number) for number in range(len(data))]
        shapes = sorted({tuple(image.shape) for image, _ in pairs})
        if len(shapes) > 1:
            raise ValueError(
                f"val_data: images of {shapes[0]} and {shapes[1]}: must be of one size; resize and crop them first"
            )
        images = torch.stack([image for image, _ in pairs]) if pairs else torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
        labels = torch.tensor([label for _, label in pairs], dtype=torch.int64)
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(f"val_data: {len(images)} images and {len(labels)} labels: must be as many, and not 0")
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"val_data: labels of {labels.dtype} {list(labels.shape)}: must be integers [N]; soft labels "
                         "have no class")  # fmt: skip
    least, greatest = int(labels.min()), int(labels.max())
    if least < 0 or greatest >= classes:
        raise ValueError(f"val_data: labels {least}..{greatest}: must lie in 0..{classes - 1}, the classes")
    return images, labels.long()


def _refuse(data: Any) -> None:
    """What is no data set, with the way to one."""
    if isinstance(data, DataLoader):
        raise TypeError("val_data: a DataLoader: must be a map-style data set; give loader.dataset, before ToTensor")
    if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], np.ndarray) and data[0].ndim > 2:
        raise TypeError(
            f"val_data: a pair with a NumPy array of {list(data[0].shape)}: must be a pair of tensors, uint8 "
            "[N, C, H, W] and integers [N]; e.g. torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)"
        )
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TypeError(
            f"val_data: got {type(data).__name__}: must be map-style (__getitem__ and __len__) with (image, label)"
        )


def _pair(item: Any, number: int) -> tuple[Tensor, int]:
    image, label = (item[key] for key in sample_keys(item))
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        label = label.item() if label.ndim == 0 else label.tolist()
    if isinstance(label, bool) or not hasattr(label, "__index__"):
        raise TypeError(f"val_data[{number}]: label {reprlib.repr(label)}: must be an int; soft labels have no class")
    if check_image(image) == "pil":
        array = np.asarray(image)
        image = torch.from_numpy((array[..., None] if array.ndim == 2 else array).transpose(2, 0, 1).copy())
    return image, int(label)


def class_names(data: Any, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes' names in label order: those given, or the data set's own.

    Raises:
        TypeError: ``classes`` is no sequence of names.
        TamisError: there are none.
    """
    if isinstance(classes, (int, np.integer)):
        raise TypeError(
            f"classes={int(classes)}: must be names in label order, e.g. [str(i) for i in range({int(classes)})]"
        )
    if isinstance(classes, str):
        raise TypeError(f"classes={classes!r}: must be names in label order, e.g. ['cat', 'dog']")
    names = tuple(map(str, classes)) if classes is not None else describe_data(data).classes
    if not names:
        raise TamisError("classes: the data set has no class names; pass classes=[...] in label order")
    return names


def warn_of_empty(labels: Tensor, names: tuple[str, ...], instead: str) -> None:
    """Warn of classes without an image; ``instead`` says what they get."""
    empty = [
        name for name, n in zip(names, torch.bincount(labels, minlength=len(names)).tolist(), strict=True) if not n
    ]
    if empty:
        warnings.warn(
            f"no reward images of {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}: these classes get "
            f"{instead}; add images of them to val_data",
            UserWarning,
            stacklevel=4,
        )


def warn_of_chance(score: float, images: int, classes: int) -> None:
    """Warn of a model whose mean score (accuracy or probability) is not above chance."""
    chance = 1 / classes
    if classes > 1 and score <= chance + 2 * (chance * (1 - chance) / images) ** 0.5:
        warnings.warn(
            f"the model recognises {score:.0%} of the held-out images as they are, no more than chance ({chance:.0%}): "
            "give prepare= what it was trained with, and classes in its own order",
            UserWarning,
            stacklevel=4,
        )
