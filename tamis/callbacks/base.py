"""What all trainers share: which component goes where, and whether it fits.

A *component* is a sampler (an order), a regularizer or pruner (a penalty, a step, a cut), or anything with
``state_dict``/``load_state_dict`` (a `ResumableLoader`).
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

from torch.utils.data import DistributedSampler, IterableDataset, RandomSampler, Sampler

from tamis.core.types import Stateful

__all__ = ["ResumableSampler", "check_length", "check_sampler"]


class ResumableSampler(Stateful, Protocol):
    """What `ResumableLoader` asks of a sampler, as `tamis.samplers.StatefulSampler`."""

    def __len__(self) -> int:
        """Indices in an epoch."""
        ...

    def set_epoch(self, epoch: int, /) -> None:
        """Draw for this epoch."""
        ...

    def seek(self, position: int, /) -> None:
        """Leave out so many indices, once."""
        ...


def check_sampler(sampler: object, dataset: object) -> None:
    """Refuse a sampler that a trainer would replace, shard twice or never ask.

    Args:
        sampler: a `torch.utils.data.Sampler` with ``set_epoch``, ``state_dict``, ``load_state_dict``, ``__len__``.
        dataset: the training data, map-style; if the sampler says for how many items it was made
            (``data_size``), the number must agree.

    Raises:
        TypeError: not such a sampler, a `RandomSampler` or `DistributedSampler`, or an iterable data set.
        ValueError: made for another number of items.
    """
    if isinstance(sampler, DistributedSampler):
        raise TypeError(
            f"{type(sampler).__name__}: shards by itself, and the trainer deals batches to the ranks again, so that "
            "most of the data would never be seen; pass the plain sampler (tamis samplers give the global order)"
        )
    if isinstance(sampler, RandomSampler):
        raise TypeError(
            f"{type(sampler).__name__}: accelerate replaces every RandomSampler by its own; "
            "subclass tamis.samplers.StatefulSampler instead"
        )
    if not isinstance(sampler, Sampler) or not isinstance(sampler, Stateful) or not hasattr(sampler, "set_epoch"):
        raise TypeError(
            f"{type(sampler).__name__}: must be a torch Sampler with __len__, set_epoch, state_dict and "
            "load_state_dict (tamis.samplers.StatefulSampler has them)"
        )
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"train_dataset is a {type(dataset).__name__}, which no sampler can index; use a map-style data set "
            "(datasets.Dataset instead of its streaming form), or filter the stream"
        )
    size = getattr(sampler, "data_size", None)
    if size is not None and isinstance(dataset, Sized) and size != len(dataset):
        raise ValueError(
            f"{type(sampler).__name__} was made for {size} items, but train_dataset has {len(dataset)}: "
            "build it from the features or weights of this data set"
        )


def check_length(sampler: Sized, length: int) -> None:
    """Refuse a sampler whose length has changed.

    Args:
        sampler: the one that is trained with.
        length: what the number of training steps was computed from.

    Raises:
        ValueError: ``len(sampler)`` is another number now.
    """
    if len(sampler) != length:
        raise ValueError(
            f"len(sampler)={len(sampler)}: was {length} when training was prepared, and the trainer computed its "
            "steps from that; keep num_samples fixed during train()"
        )
