"""Density matching, label by label: what a triple of operations does to a trained model's accuracy on each class.

Eq. (4.4) of chapter 4 of M. Zhao's thesis (LA3): r = R_y(theta | tau(D_val)) - R_y(theta | D_val). One pass over the
reward images judges one triple for every label, because each image is augmented by its own label's triple.

**Deviations**: the clean term is measured on the same images with the same preparation (the authors' code crops and
flips in one of the two terms only, which adds an offset). ``reward="probability"`` takes the mean probability of the
true class for R_y, which varies less than the recall where images are few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.distributed import parallel_map
from tamis.core.errors import TamisError
from tamis.core.models import device_of, evaluating
from tamis.policy.base import fingerprint
from tamis.search.label_aware.data import read_images
from tamis.transforms.images.ops import draw
from tamis.transforms.images.tensor import apply_batch

__all__ = ["REWARDS", "RewardImages", "scaled"]

REWARDS = ("recall", "probability")


def scaled(images: Tensor) -> Tensor:
    """The default preparation: uint8 to float in [0, 1]."""
    return images.float() / 255


class RewardImages:
    """Reward images in memory, and a model to judge triples with.

    On several processes the batches are dealt out; sums over batches are taken in their order, so that the result
    does not depend on the number of processes.

    Args:
        model: gives logits [B, L] (or an object with ``logits``).
        data: map-style (image, label, ...), PIL or uint8 tensors of one size; or a pair of tensors, uint8
            [N, C, H, W] and integers [N].
        groups: for each label the group that shares its triples, [L].
        prepare: from uint8 [B, C, H, W] on the device to the model's input.
        reward: ``"recall"`` or ``"probability"``.
        batch_size: images a forward.
        repeats: passes with other magnitudes whose mean is the reward.
        seed: of magnitudes and orders.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        groups: np.ndarray,
        *,
        prepare: Callable[[Tensor], Tensor] = scaled,
        reward: str = "recall",
        batch_size: int = 256,
        repeats: int = 1,
        seed: int = 0,
    ) -> None:
        self.model, self.prepare, self.reward, self.repeats, self.seed = model, prepare, reward, repeats, seed
        self.images, self.labels = read_images(data, len(groups))
        self.classes = len(groups)
        self.groups = torch.from_numpy(groups)[self.labels].numpy()
        self.counts = np.bincount(self.groups, minlength=int(groups.max()) + 1)
        self.batches = list(torch.split(torch.arange(len(self.images)), batch_size))
        self.device = device_of(model)
        self._clean: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """sha256 over images and labels."""
        return fingerprint(self.images, self.labels)

    def clean(self) -> np.ndarray:
        """The sum of each group's scores on the images as they are: float64 [G]."""
        if self._clean is None:
            self._clean = self._sums(None, 0, 0)
        return self._clean

    def rewards(self, trial: int, triples: np.ndarray) -> np.ndarray:
        """Eq. (4.4) for one triple a group; a group without images gets 0.

        Args:
            trial: names the random streams of magnitudes and orders.
            triples: operation ids, [G, 3].

        Returns:
            float64 [G].
        """
        clean = self.clean()
        augmented = np.zeros(len(self.counts))
        for repeat in range(self.repeats):
            augmented += self._sums(triples, trial, repeat)
        change: np.ndarray = (augmented / self.repeats - clean) / np.maximum(self.counts, 1)
        return change

    def _sums(self, triples: np.ndarray | None, trial: int, repeat: int) -> np.ndarray:
        """The sum of each group's scores, augmented or clean: float64 [G]."""
        with evaluating(self.model):
            parts = parallel_map(lambda rows: self._batch(rows, triples, trial, repeat), self.batches)
        total: np.ndarray = np.sum(parts, axis=0)
        return total

    def _batch(self, rows: Tensor, triples: np.ndarray | None, trial: int, repeat: int) -> np.ndarray:
        if self.images.device != self.device:
            self.images = self.images.to(self.device)  # and there they stay
        images = self.images[rows]
        if triples is not None:
            images = apply_batch(
                images,
                [
                    draw(triples[self.groups[row]][None], (self.seed, trial, row, repeat), shuffle=True)
                    for row in rows.tolist()
                ],
            )
        with torch.no_grad():
            logits = self.model(self.prepare(images))
        logits = getattr(logits, "logits", logits)
        if logits.ndim != 2 or logits.shape[1] < self.classes:
            raise TamisError(
                f"model: gave {list(logits.shape)} for {len(images)} images of {self.classes} classes: must be logits "
                "[B, L]"
            )
        if not bool(torch.isfinite(logits).all()):
            raise TamisError(
                "model: gave logits that are NaN or infinite; give prepare= what the model was trained with"
            )
        labels = self.labels[rows].to(logits.device)
        if self.reward == "recall":
            scores = (logits.argmax(1) == labels).double()
        else:
            scores = logits.double().softmax(1).gather(1, labels[:, None]).squeeze(1)
        return np.bincount(self.groups[rows.numpy()], weights=scores.cpu().numpy(), minlength=len(self.counts))
