"""The data of a curriculum search: batches of it on the model's device, and what tells one sample from another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from tamis.core.errors import TamisError
from tamis.core.types import Batch, Collate, MapDataset
from tamis.features.losses import SampleLoss, make_batch
from tamis.policy.base import fingerprint

__all__ = ["Samples", "finite"]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a search is fed with.

    Attributes:
        model: in training.
        train: the candidates.
        validation: what rewards are measured on.
        selection: what decides when to stop.
        collate: a list of items -> a batch; None: torch's.
        loss: of each sample of a batch.
        batch_size: samples a forward pass of measuring.
        prints: fingerprint of each training sample; None if they have none.
        trusted: samples that are trained on too and that copies are tuned on; None: there are none.
    """

    model: nn.Module
    train: MapDataset
    validation: MapDataset
    selection: MapDataset
    collate: Collate | None
    loss: SampleLoss
    batch_size: int
    prints: list[str] | None
    trusted: MapDataset | None = None

    def batch(self, data: MapDataset, indices: Sequence[int] | np.ndarray) -> Batch:
        """One batch of the samples ``indices`` of ``data``.

        Args:
            data: one of the three data sets.
            indices: int, in [0, len(data)).
        """
        made: Batch = make_batch(data, indices, self.collate, self.model)
        return made

    def batches(self, data: MapDataset, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[Batch]:
        """Batches of ``batch_size``.

        Args:
            data: one of the three data sets.
            indices: of its samples, in order; None: all.
        """
        indices = range(len(data)) if indices is None else indices
        for at in range(0, len(indices), self.batch_size):
            yield self.batch(data, indices[at : at + self.batch_size])

    def validation_batches(self) -> Iterator[Batch]:
        """All of the validation data."""
        return self.batches(self.validation)

    def print_of(self, indices: np.ndarray) -> str | None:
        """Fingerprint of training samples, in order; None if they have none.

        Args:
            indices: of training samples, int64.
        """
        return None if self.prints is None else fingerprint([self.prints[i] for i in indices])


def finite(value: float, index: int | None = None) -> float:
    """``value``, the reward of sample ``index`` or a selection loss (None), if it is finite.

    Args:
        value: any number.
        index: of the sample.

    Raises:
        TamisError: it is not.
    """
    if not np.isfinite(value):
        what = "selection loss" if index is None else f"reward of sample {index}"
        raise TamisError(f"{what}: {value}: must be finite; lower the learning rate, or look at the data. The search "
                         "goes on from its journal when the cause is removed")  # fmt: skip
    return value
