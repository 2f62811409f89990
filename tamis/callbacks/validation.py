"""Validation batches for pruners that learn from them: which rows a step sees is a function of (seed, step, rank)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from tamis.core.checks import check_int
from tamis.core.distributed import rank, world_size
from tamis.core.rng import check_seed, numpy_generator
from tamis.core.types import Collate, MapDataset

__all__ = ["ValidationBatches"]

STREAM = 0x76616C69


class ValidationBatches:
    """Batches of a data set without end: shuffled anew each time it was seen, dealt out to the ranks.

    Nothing is kept between two calls, so that a resumed run sees the batches of an unbroken one.

    Args:
        dataset: map-style.
        batch_size: of one rank, >= 1; at most the data set's length over the ranks.
        collate: items -> batch.
        seed: of the order.

    Raises:
        TypeError: the data set is a stream, or a loader.
        ValueError: it is empty.
    """

    def __init__(self, dataset: MapDataset, *, batch_size: int, collate: Collate, seed: int = 0) -> None:
        if isinstance(dataset, DataLoader):
            raise TypeError(
                "validation=DataLoader: must be a data set; give loader.dataset, batches are made from it here"
            )
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise TypeError(
                f"validation={type(dataset).__name__}: must be map-style (__getitem__ and __len__), since its batches "
                "are found again when training resumes; take the first rows of a stream as a list"
            )
        if not len(dataset):
            raise ValueError("validation: must hold at least one sample, got none")
        self.dataset, self.collate, self.seed = dataset, collate, check_seed(seed)
        self.batch_size = min(check_int("batch_size", batch_size, low=1), max(1, len(dataset) // world_size()))

    def indices(self, step: int) -> list[int]:
        """The rows that this rank sees at optimizer step ``step``, >= 0."""
        per_pass = max(1, len(self.dataset) // (self.batch_size * world_size()))
        turn, place = divmod(step, per_pass)
        order = numpy_generator(STREAM, self.seed, turn).permutation(len(self.dataset))
        first = (place * world_size() + rank()) * self.batch_size
        return [int(index) for index in np.take(order, range(first, first + self.batch_size), mode="wrap")]

    def batch(self, step: int) -> Any:
        """The batch of optimizer step ``step``, as ``collate`` made it."""
        wanted = self.indices(step)
        read: Callable[[list[int]], list[Any]] | None = getattr(self.dataset, "__getitems__", None)
        return self.collate(read(wanted) if read else [self.dataset[index] for index in wanted])
