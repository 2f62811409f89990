"""The label-aware transform: each image gets operations that suit its class, with random magnitudes.

With a `MenuPolicy`: operations of a base (RandAugment) but for those that the class must not get. With a
`LabelAwarePolicy`: section 4.4.2 of M. Zhao's thesis ("LA3: Efficient Label-Aware AutoAugment", Zhao et al., ECCV
2022), "each sample is augmented by an augmentation triple randomly selected from the policy with random magnitudes".

    augment = LabelAwareAugment(tamis.load_policy("runs/label_aware"))
    image, label = augment(image, label)

It goes where torchvision's v2 transforms go (it keeps their calling convention, `v2.Compose` included), before
anything that makes floats, and before MixUp and CutMix, which make labels soft. Adapters for data sets are in
`data` and `datasets`.

**Deviations**: a triple's operations are applied in an order drawn anew each time (``policy.order``), because the
search judges a triple whatever its order. **Unstated** in the text: nothing beyond what `ops` says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from tamis.core.checks import check_choice, check_int
from tamis.core.distributed import rank
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import check_seed
from tamis.core.types import ImageLike, Label
from tamis.policy.base import DataInfo
from tamis.transforms.images.apply import apply_operations
from tamis.transforms.images.ops import Drawn, check_image
from tamis.transforms.images.tensor import apply_batch
from tamis.transforms.label_aware.datasets import DatasetsTransform
from tamis.transforms.label_aware.draws import draws_of
from tamis.transforms.label_aware.menu_policy import MenuPolicy
from tamis.transforms.label_aware.policy import LabelAwarePolicy
from tamis.transforms.label_aware.samples import replace_image, sample_keys

__all__ = ["LabelAwareAugment"]

MODES = ("exact", "fast")
_UNTOLD = -1  # no epoch was told yet


class LabelAwareAugment(nn.Module):
    """Augments an image as the policy says for its label.

    Once `set_epoch` was called, what it draws is a function of (seed, epoch, index, copy) where the index is known
    (`LabelAwareDataset`, ``for_datasets(index=...)``, ``index=``), so that workers, ranks and resuming change
    nothing. Otherwise it is a function of (seed, epoch, rank, the loader's seed for the worker, number of the call):
    new in every epoch, but not repeatable. ``attach(trainer, augment)`` calls it in Trainer. Global generators are
    never touched.

    Policy and epoch lie in shared memory: `update` and `set_epoch` reach workers that are already running.

    Args:
        policy: of `search_label_aware` or `tamis.load_policy`, or `LabelAwarePolicy.from_authors`.
        seed: of everything it draws.
        mode: ``"exact"``: the operations one by one, bit for bit. ``"fast"``: on PIL images neighbouring geometric
            operations are done in one go, which changes pixels where they meet (see the method's card).

    Warns:
        NoEffectWarning: the policy is Identity throughout.
    """

    epoch_reaches_workers = True  # by shared memory

    def __init__(self, policy: LabelAwarePolicy | MenuPolicy, *, seed: int = 0, mode: str = "exact") -> None:
        super().__init__()
        self._draws = draws_of(policy)
        self.seed, self.mode = check_seed(seed), check_choice("mode", mode, MODES)
        self.classes = policy.classes
        self._shared = torch.tensor([_UNTOLD])
        self._calls = 0
        self._build()
        self.update(policy)

    def _build(self) -> None:
        self._shared.share_memory_()  # type: ignore[no-untyped-call]
        self._labels = {name: label for label, name in enumerate(self.classes)}
        self._numbers = self._shared.numpy()  # a quick view of the same memory

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_numbers", "_labels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._build()

    def update(self, policy: LabelAwarePolicy | MenuPolicy) -> None:
        """Use another policy for the same classes from now on, also in workers that are running.

        Raises:
            PolicyError: other classes.
            TypeError: a policy of the other kind.
            ValueError: more triples a class than the policy that the transform was made with, or another menu.
        """
        policy.check(data=DataInfo(classes=self.classes))
        self._draws.update(policy)
        if policy.changes_nothing:
            warnings.warn(
                "the policy is Identity throughout, so images stay as they are; search another one",
                NoEffectWarning,
                stacklevel=3,
            )

    @property
    def epoch(self) -> int:
        """The epoch that draws depend on; 0 before `set_epoch` was called."""
        return max(0, int(self._numbers[0]))

    def set_epoch(self, epoch: int) -> None:
        """Draw anew for this epoch, also in workers that are running."""
        self._numbers[0] = check_int("epoch", epoch, low=0)

    def forward(self, *inputs: Any, index: int | None = None) -> Any:
        """Augment one sample; its label comes back as it was.

        Args:
            inputs: ``image, label, ...``, a tuple or list of these, or a dict with "image" or "img" and "label",
                "labels" or "fine_label". Images are PIL (L or RGB) or uint8 tensors [1 or 3, H, W]; a label is an
                int, an integer tensor with one value, or a class name.
            index: the sample's number, if it is known; used once `set_epoch` was called.

        Returns:
            The same structure with another image.

        Raises:
            TypeError, ValueError: a label or an image that the policy does not cover.
        """
        sample = inputs[0] if len(inputs) == 1 else inputs
        image, label = sample_keys(sample)
        return replace_image(sample, self.augment_image(sample[image], sample[label], index=index))

    def augment_image(self, image: ImageLike, label: Label, *, index: int | None = None, copy: int = 0) -> ImageLike:
        """The augmented image alone.

        Args:
            image: as `forward`.
            label: as `forward`.
            index: the sample's number, if it is known.
            copy: which of several versions of the sample.

        Returns:
            An image of the same kind and size.

        Raises:
            TypeError, ValueError: as `forward`.
        """
        if isinstance(image, Tensor) and image.ndim == 4:
            raise ValueError(
                f"image: a batch of shape {list(image.shape)}: must be one image; use augment.batch(images, labels)"
            )
        drawn = self._draw(self.label_id(label), index, copy)
        result = apply_operations(image, drawn, fast=self.mode == "fast")
        if isinstance(image, Tensor) and type(image) is not Tensor:
            from torchvision import tv_tensors

            wrapped: Tensor = tv_tensors.wrap(result, like=image)
            return wrapped
        return result

    def batch(
        self, images: Tensor, labels: Tensor, *, indices: Sequence[int] | Tensor | None = None, copies: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch on its device, each image by its own label.

        The same pixels as image by image, where the index is known.

        Args:
            images: uint8 [B, 1 or 3, H, W].
            labels: integers [B].
            indices: the samples' numbers, if they are known.
            copies: versions of each sample (Batch Augment); they follow one another.

        Returns:
            images [B * copies, C, H, W] and labels [B * copies].
        """
        check_int("copies", copies, low=1)
        if images.ndim != 4 or len(labels) != len(images) or labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"images of shape {list(images.shape)} and labels of {labels.dtype} {list(labels.shape)}: must be "
                "[B, C, H, W] and integers [B]; MixUp and CutMix go after this"
            )
        if len(images) == 0:
            return images, labels
        check_image(images[0])
        numbers: list[int | None] = [None] * len(images)
        if indices is not None:
            numbers = [int(number) for number in indices]
        drawn = [
            self._draw(label, number, copy)
            for label, number in zip(map(self.label_id, labels.tolist()), numbers, strict=True)
            for copy in range(copies)
        ]
        return apply_batch(images.repeat_interleave(copies, 0), drawn), labels.repeat_interleave(copies)

    def for_datasets(
        self,
        *,
        image: str = "image",
        label: str = "label",
        index: str | None = None,
        then: Callable[[ImageLike], object] | None = None,
        out: str | None = None,
        copies: int = 1,
    ) -> Callable[[dict[str, list[Any]]], dict[str, list[Any]]]:
        """A function for Hugging Face `Dataset.with_transform`.

        With Trainer set ``remove_unused_columns=False``, or it drops the columns before they get here.

        Args:
            image: name of the column with PIL images.
            label: name of the column with labels.
            index: name of a column with each row's number, so that what is drawn depends on (seed, epoch, row):
                ``ds.add_column("row", range(len(ds)))``. Without it, on the number of the call.
            then: applied to each augmented image.
            out: column for the result; default: ``image``.
            copies: versions of each row (Batch Augment), >= 1; they follow one another.

        Returns:
            A `DatasetsTransform`, which can be pickled.
        """
        return DatasetsTransform(self, image=image, label=label, index=index, then=then, out=out, copies=copies)

    def label_id(self, label: object) -> int:
        """The label as an integer that the policy has a row for.

        Raises:
            TypeError: a soft label, or no label at all.
            ValueError: outside the policy's classes.
        """
        if isinstance(label, str):
            if label not in self._labels:
                raise ValueError(f"label={str(label)!r}: must be one of the policy's classes ({self._named()})")
            return self._labels[label]
        if isinstance(label, (Tensor, np.ndarray, np.generic)):
            if label.ndim > 0 or not isinstance(label.item(), int):
                raise TypeError(
                    f"label: {label.dtype} of shape {list(label.shape)}: must be one integer; soft labels have no "
                    "class: put this transform before MixUp and CutMix, and smooth labels in the loss"
                )
            label = label.item()
        index = getattr(label, "__index__", None)
        if isinstance(label, bool) or index is None:
            raise TypeError(f"label={label!r}: must be an int or a class name, got {type(label).__name__}")
        number = int(index())
        if not 0 <= number < len(self.classes):
            raise ValueError(
                f"label={number}: must lie in 0..{len(self.classes) - 1}, the policy's classes ({self._named()}); "
                "search a policy for this data"
            )
        return number

    def extra_repr(self) -> str:
        return f"classes={len(self.classes)}, {self._draws!r}, seed={self.seed}, mode={self.mode}"

    def _draw(self, label: int, index: int | None, copy: int) -> list[Drawn]:
        if index is None or self._numbers[0] == _UNTOLD:  # keyed by an epoch that stays 0 it would repeat itself
            worker = get_worker_info()
            loader = 0 if worker is None else worker.seed % 2**63
            key = [self.seed, self.epoch, rank(), loader, self._calls]
            self._calls += 1
        else:
            key = [self.seed, self.epoch, index, copy]
        return self._draws.draw(label, key)

    def _named(self) -> str:
        return ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
