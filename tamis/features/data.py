"""Reading map-style data sets: this rank's stretch, inputs and labels of a batch, the fingerprint of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from tamis.core.distributed import rank_stretch
from tamis.core.models import to_device
from tamis.core.rng import seeded_globals, torch_generator
from tamis.core.types import Batch, Collate, MapDataset
from tamis.features.prints import input_prints
from tamis.policy.base import fingerprint

__all__ = [
    "Inputs",
    "classes_of",
    "collated",
    "fingerprint_dataset",
    "item_labels",
    "items_of",
    "labels_of",
    "shard_loader",
    "split_batch",
]

#: What a model is called with: keywords, or one positional argument.
Inputs: TypeAlias = dict[str, Tensor] | Any


def collated(items: list[Any], collate: Collate | None = None) -> Batch:
    """Items as one batch, by ``collate`` or torch's own way.

    Args:
        items: of a data set.
        collate: a list of items -> a batch; default: torch's.

    Raises:
        ValueError: torch's own way cannot join the items, such as texts of different lengths.
    """
    try:
        batch: Batch = torch.utils.data.default_collate(items) if collate is None else collate(items)
        return batch
    except (RuntimeError, TypeError) as error:
        if collate is not None:
            raise
        raise ValueError(
            f"collate=None: torch cannot join these items into a batch ({str(error).splitlines()[0]}); pass "
            "collate=your_collator, such as transformers' DataCollatorWithPadding, or items of one length"
        ) from error


def shard_loader(data: MapDataset | DataLoader[Any], batch_size: int, *, whole_batches: bool = True) -> DataLoader[Any]:
    """A loader over this rank's stretch of the data set, in order.

    Args:
        data: a map-style data set, or a loader, whose data set, batch size, workers and collate function are used.
        batch_size: used where ``data`` is a data set.
        whole_batches: each rank gets whole batches: the last bits of a result depend on its batch.

    Raises:
        TypeError: ``data`` is an `IterableDataset` or has no items by number.
        ValueError: ``data`` is empty.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "collate_fn": collated}
    dataset: Any = data
    if isinstance(data, DataLoader):
        dataset = data.dataset
        options = {"batch_size": data.batch_size or batch_size, "num_workers": data.num_workers}
        if data.collate_fn is not torch.utils.data.default_collate:
            options["collate_fn"] = data.collate_fn
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(f"data={type(dataset).__name__}: must be a map-style data set, samples are drawn by index")
    if not len(dataset):
        raise ValueError("data: must hold at least one sample")
    stretch = rank_stretch(len(dataset), block=options["batch_size"] if whole_batches else 1)
    generator = torch_generator(0)  # else each pass would draw from the global one
    return DataLoader(Subset(dataset, stretch), shuffle=False, generator=generator, **options)


def split_batch(batch: Batch, device: torch.device) -> tuple[Inputs, Tensor]:
    """Inputs and labels (int64 [B]) of a batch, on ``device``.

    Args:
        batch: (inputs, labels), or a mapping with ``labels`` or ``label``, whose other tensors are the inputs.
        device: where to put both.

    Raises:
        TypeError: a batch without labels, or labels that are not integers [B].
    """
    inputs: Inputs = None
    targets: object = None
    if isinstance(batch, Mapping):
        inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        targets = inputs.pop("labels", inputs.pop("label", None))
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise TypeError("a batch must be (inputs, labels) or a dict with 'labels' or 'label'; labels int [B]")
    return to_device(inputs, device), targets.to(device).long()


def items_of(data: MapDataset, indices: Iterable[int] | Tensor, collate: Collate | None, device: torch.device) -> Batch:
    """Items of ``data`` as one batch on ``device``.

    Args:
        data: a map-style data set.
        indices: numbers of the items.
        collate: a list of items -> a batch; default: torch's.
        device: where to put its tensors.
    """
    wanted = [int(index) for index in indices]
    items = data.__getitems__(wanted) if hasattr(data, "__getitems__") else [data[index] for index in wanted]
    batch: Any = to_device(collated(items, collate), device)
    made: Batch = batch
    return made


def labels_of(dataset: MapDataset) -> Tensor:
    """The labels of a data set in order, without loading the inputs where the data set allows it.

    Args:
        dataset: map-style, of items with labels.
    """
    if isinstance(dataset, Subset):
        return labels_of(cast(MapDataset, dataset.dataset))[torch.as_tensor(list(dataset.indices))]
    known: Any = dataset
    readers: list[Callable[[], Any]] = [
        lambda: known.targets,
        lambda: known.tensors[-1],
        lambda: known.with_format(None)["labels" if "labels" in known.column_names else "label"][:],
    ]
    for read in readers:
        try:
            return torch.as_tensor(read())
        except (AttributeError, KeyError):
            continue
    cpu, size = torch.device("cpu"), len(dataset)  # all of it: not this rank's stretch
    pieces = (range(first, min(first + 256, size)) for first in range(0, size, 256))
    return torch.cat([split_batch(items_of(dataset, piece, None, cpu), cpu)[1] for piece in pieces])


def item_labels(dataset: MapDataset) -> list[Any]:
    """Each sample's label as its item has it, of any shape; None where it has none. Loads every item.

    Args:
        dataset: map-style, of mappings or tuples.
    """

    def label(item: Any) -> Any:
        if isinstance(item, Mapping):
            return item.get("labels", item.get("label"))
        return item[-1] if isinstance(item, (tuple, list)) and len(item) > 1 else None

    with seeded_globals(0):
        return [label(dataset[index]) for index in range(len(dataset))]


def classes_of(data: MapDataset) -> np.ndarray | None:
    """The samples' classes, int [n]; None where they have none, such as texts.

    Args:
        data: map-style.
    """
    try:
        labels = labels_of(data)
    except (TypeError, ValueError, RuntimeError):  # inputs of different lengths may have classes nonetheless
        try:
            labels = torch.as_tensor(item_labels(data))
        except (TypeError, ValueError, RuntimeError):
            return None
    return labels.numpy() if labels.ndim == 1 and not labels.is_floating_point() else None


def fingerprint_dataset(dataset: MapDataset, labels: Tensor | None = None) -> str:
    """sha256 over the labels in order and the inputs of a few samples; without labels, over the inputs of all.

    Args:
        dataset: a map-style data set.
        labels: its labels, if they are known: integers [n].

    Raises:
        TypeError: it has neither labels nor inputs with bytes to hash, or these differ at a second reading.
    """
    if labels is None:
        try:
            labels = labels_of(dataset)
        except (TypeError, ValueError, RuntimeError):  # sequences of different lengths, or none
            return _fingerprint_items(dataset)
    return fingerprint(labels if labels.is_floating_point() else labels.to(torch.int64), input_prints(dataset))


def _fingerprint_items(dataset: MapDataset) -> str:
    labels = item_labels(dataset)
    if any(label is not None for label in labels):
        try:
            return fingerprint("items", labels, input_prints(dataset))
        except TypeError:  # labels without bytes
            pass
    prints = input_prints(dataset, None)
    if not any(prints):
        raise TypeError(
            f"data={type(dataset).__name__}: has neither labels nor inputs that could be compared (tensors, arrays, "
            "images, numbers, text, the same at a second reading)"
        )
    return fingerprint("items", len(labels), prints)
