"""Hugging Face `datasets` meet `LabelAwareAugment`: a function for ``Dataset.with_transform``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tamis.core.checks import check_int
from tamis.core.types import ImageLike, Label

__all__ = ["Augment", "DatasetsTransform"]


class Augment(Protocol):
    """What `DatasetsTransform` asks of a transform."""

    def augment_image(self, image: ImageLike, label: Label, *, index: int | None = None, copy: int = 0) -> ImageLike:
        """The image as augmented for its label.

        Args:
            image: PIL image (L or RGB) or uint8 tensor [1 or 3, H, W].
            label: of one class.
            index: the sample's number, if it is known: what is drawn depends on it.
            copy: which of several versions of the sample.
        """
        ...


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
        augment: Augment,
        *,
        image: str,
        label: str,
        index: str | None,
        then: Callable[[ImageLike], object] | None,
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
