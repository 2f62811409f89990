"""Map-style data sets meet `LabelAwareAugment`: torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from tamis.core.checks import check_int
from tamis.core.errors import PolicyError
from tamis.core.types import ImageLike, MapDataset
from tamis.policy.info import describe_data
from tamis.transforms.label_aware.augment import LabelAwareAugment
from tamis.transforms.label_aware.samples import Sample, replace_image, sample_keys

__all__ = ["LabelAwareDataset"]


class LabelAwareDataset(Dataset[Any]):
    """A data set whose images are augmented by label and number, and then go through ``transform``.

    For data sets whose own transform sees no label: torchvision's ImageFolder and CIFAR10, timm's. timm's
    `create_loader` sets ``.transform``, which therefore runs after the augmentation.

    Args:
        dataset: map-style; items are (image, label, ...) or a dict, images as `LabelAwareAugment` takes them (so give
            a data set without a transform, or with one that keeps PIL images or uint8 tensors).
        augment: the transform.
        transform: what comes after it, e.g. ``v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])``.
        copies: versions of each sample in a batch (Batch Augment): a loader's batch of B indices has B * copies
            samples.

    Raises:
        PolicyError: the data set's class names are not the policy's.
    """

    epoch_reaches_workers = True  # by shared memory

    def __init__(
        self,
        dataset: MapDataset,
        augment: LabelAwareAugment,
        *,
        transform: Callable[[ImageLike], object] | None = None,
        copies: int = 1,
    ) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(f"dataset: {type(dataset).__name__} must be map-style (__getitem__ and __len__)")
        names = describe_data(dataset).classes
        if names and names != augment.classes:
            raise PolicyError(
                f"dataset: its classes are {_listed(names)}, the policy's {_listed(augment.classes)}; "
                "search a policy for this data"
            )
        self.dataset, self.augment, self.transform = dataset, augment, transform
        self.copies = check_int("copies", copies, low=1)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """As `LabelAwareAugment.set_epoch`."""
        self.augment.set_epoch(epoch)

    def __getitem__(self, index: int) -> Sample:
        return self._version(self._read(index), index, 0)

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """A batch: ``copies`` versions of each item, one after the other."""
        return [
            self._version(item, index, copy)
            for index, item in ((index, self._read(index)) for index in indices)
            for copy in range(self.copies)
        ]

    def _read(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: must lie in 0..{len(self) - 1}")
        try:
            sample: Sample = self.dataset[index]
            return sample
        except OSError as error:  # PIL's errors for files that are no image, or cut off
            raise OSError(f"item {index} cannot be read: {error}; remove it or restore its file") from error

    def _version(self, item: Sample, index: int, copy: int) -> Sample:
        image, label = sample_keys(item)
        version = self.augment.augment_image(item[image], item[label], index=index, copy=copy)
        return replace_image(item, version if self.transform is None else self.transform(version))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")
