"""Where data sets meet `LabelAwareAugment`: torchvision's and timm's, and Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from tamis._core.checks import check_int
from tamis._core.errors import PolicyError
from tamis._core.policy_info import describe_data
from tamis.transforms.label_aware import LabelAwareAugment, replace_image, sample_keys

__all__ = ["DatasetsTransform", "LabelAwareDataset"]


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

    def __init__(
        self,
        dataset: Any,
        augment: LabelAwareAugment,
        *,
        transform: Callable[[Any], Any] | None = None,
        copies: int = 1,
    ) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(f"dataset: {type(dataset).__name__} must be map-style (__getitem__ and __len__)")
        names = describe_data(dataset).classes
        if names and names != augment.classes:
            raise PolicyError(
                f"dataset: its classes are {_few(names)}, the policy's {_few(augment.classes)}; "
                "search a policy for this data"
            )
        self.dataset, self.augment, self.transform = dataset, augment, transform
        self.copies = check_int("copies", copies, low=1)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """As `LabelAwareAugment.set_epoch`."""
        self.augment.set_epoch(epoch)

    def __getitem__(self, index: int) -> Any:
        return self._version(self._read(index), index, 0)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """A batch: ``copies`` versions of each item, one after the other."""
        return [
            self._version(item, index, copy)
            for index, item in ((index, self._read(index)) for index in indices)
            for copy in range(self.copies)
        ]

    def _read(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"index={index}: must lie in 0..{len(self) - 1}")
        try:
            return self.dataset[index]
        except OSError as error:  # PIL's errors for files that are no image, or cut off
            raise OSError(f"item {index} cannot be read: {error}; remove it or restore its file") from error

    def _version(self, item: Any, index: int, copy: int) -> Any:
        image, label = sample_keys(item)
        version = self.augment.augment_image(item[image], item[label], index=index, copy=copy)
        return replace_image(item, version if self.transform is None else self.transform(version))


class DatasetsTransform:
    """A function from a dict of lists to a dict of lists, for `datasets.Dataset.with_transform`; can be pickled.

    Args:
        augment: the transform.
        image: name of the column with PIL images.
        label: name of the column with labels.
        index: name of a column with each row's number, so that what is drawn depends on (seed, epoch, row):
            ``ds.add_column("row", range(len(ds)))``. Without it, on the number of the call.
        then: applied to each augmented image.
        out: column for the result; default: ``image``.
        copies: versions of each row (Batch Augment); they follow one another.
    """

    def __init__(
        self,
        augment: LabelAwareAugment,
        *,
        image: str,
        label: str,
        index: str | None,
        then: Callable[[Any], Any] | None,
        out: str | None,
        copies: int,
    ) -> None:
        self.augment, self.image, self.label, self.index, self.then = augment, image, label, index, then
        self.out, self.copies = out or image, check_int("copies", copies, low=1)

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Augment the rows of a batch."""
        wanted = [name for name in (self.image, self.label, self.index) if name is not None]
        missing = [name for name in wanted if name not in rows]
        if missing:
            raise KeyError(
                f"columns {missing} are missing, there are {sorted(rows)}; name them in for_datasets(...), and with "
                "Trainer set remove_unused_columns=False"
            )
        numbers = rows[self.index] if self.index is not None else [None] * len(rows[self.label])
        images = [
            self.augment.augment_image(image, label, index=number, copy=copy)
            for image, label, number in zip(rows[self.image], rows[self.label], numbers, strict=True)
            for copy in range(self.copies)
        ]
        result = {
            name: [value for value in column for _ in range(self.copies)]
            for name, column in rows.items()
            if name not in (self.image, self.index)
        }
        return {**result, self.out: images if self.then is None else [self.then(image) for image in images]}


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")
