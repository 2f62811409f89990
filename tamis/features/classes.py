"""Features that labels alone give: how frequent a sample's class is, and where a value stands within its class.

Loss and entropy do not know the class, so that trimming by them drops rare classes first; these columns let a law or a
trim tell "rare" from "wrong"::

    labels = check_labels(train)
    features = features.with_columns({
        "class_frequency": class_frequency(labels),
        "loss_in_class": rank_in_class(features["loss"], labels),
    })
"""

from __future__ import annotations

from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from tamis.core.types import ArrayLike, MapDataset
from tamis.features.data import labels_of

__all__ = ["Labels", "check_labels", "class_frequency", "rank_in_class"]

#: Integers [n], or a data set that holds them.
Labels: TypeAlias = "ArrayLike | list[int] | MapDataset"


def check_labels(labels: Labels, size: int | None = None) -> Tensor:
    """The labels of ``labels`` as int64 [n].

    Args:
        labels: integers >= 0 [n] of at least two classes, or a map-style data set that holds such labels.
        size: how many there must be; None: any number.

    Raises:
        TypeError: a data set without labels, or labels that are no integers.
        ValueError: another number of labels, a negative one (such as -100), or a single class.
    """
    known = isinstance(labels, (Tensor, np.ndarray, list, tuple))
    try:
        values = torch.as_tensor(labels if known else labels_of(cast(MapDataset, labels)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"labels={type(labels).__name__}: must be integers [n], one class a sample, or a data set with 'labels' "
            f"or 'label' ({error})"
        ) from error
    if values.ndim != 1 or values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"labels: must be integers [n], one class a sample, got {values.dtype} {list(values.shape)}")
    values = values.detach().cpu().long()
    if size is not None and len(values) != size:
        raise ValueError(f"labels: must be {size}, one a sample, got {len(values)}")
    if len(values) and int(values.min()) < 0:
        first = int((values < 0).nonzero()[0])
        raise ValueError(f"labels[{first}]={int(values[first])}: must be >= 0; leave samples without a label out")
    if not len(values) or bool((values == values[0]).all()):
        seen = f"all {len(values)} are {int(values[0])}" if len(values) else "there are none"
        raise ValueError(f"labels: must be of at least two classes, {seen}; with one class there is nothing to balance")
    return values


def class_frequency(labels: Labels) -> Tensor:
    """The share of all samples that are of the sample's own class: float64 [n] in (0, 1).

    Args:
        labels: as `check_labels`.
    """
    _, which, counts = np.unique(check_labels(labels).numpy(), return_inverse=True, return_counts=True)
    return torch.from_numpy((counts / len(which))[which])


def rank_in_class(values: ArrayLike, labels: Labels) -> Tensor:
    """Where a value stands among those of its own class, ties taken together at their last: float64 [n] in (0, 1].

    Args:
        values: any column, e.g. ``features["loss"]``, [n].
        labels: as `check_labels`.

    Raises:
        ValueError: as `check_labels`, or values that are not finite or not as many as labels.
    """
    column = np.asarray(torch.as_tensor(values).detach().cpu().double())
    if column.ndim != 1 or not np.isfinite(column).all():
        raise ValueError(f"values: must be finite, one a sample, got shape {column.shape}")
    classes = check_labels(labels, len(column)).numpy()
    ranks = np.empty(len(column))
    for one in np.unique(classes):
        of_class = classes == one
        part = column[of_class]
        ranks[of_class] = np.searchsorted(np.sort(part), part, side="right") / len(part)
    return torch.from_numpy(ranks)
