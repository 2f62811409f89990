"""What a data set's inputs look like, from a few samples: part of the fingerprint of a `FeatureTable`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tamis.core.rng import seeded_globals
from tamis.core.types import MapDataset
from tamis.policy.base import fingerprint

__all__ = ["input_prints"]

_PROBES = 16


def input_prints(dataset: MapDataset, probes: int | None = _PROBES) -> list[str | None]:
    """sha256 of the inputs of 16 evenly spaced samples; None where they cannot be compared.

    Args:
        dataset: map-style; labels as `split_batch`.
        probes: how many samples; None: all.
    """
    count = len(dataset) if probes is None else probes
    wanted = np.unique(np.linspace(0, len(dataset) - 1, count).astype(int)).tolist()
    return [_input_print(dataset, index) for index in wanted]


def _input_print(dataset: MapDataset, index: int) -> str | None:
    """sha256 of a sample's input; None where it has no bytes, or others at a second reading."""
    readings = []
    for _ in range(2):
        with seeded_globals(0):
            item = dataset[index]
        if isinstance(item, Mapping):
            parts = [item[key] for key in sorted(item, key=str) if key not in ("label", "labels")]
        else:
            parts = list(item[:-1]) if isinstance(item, (tuple, list)) else [item]
        try:
            readings.append(fingerprint([_plain(part) for part in parts]))
        except TypeError:
            return None
    return readings[0] if readings[0] == readings[1] else None


def _plain(part: object) -> object:
    """A PIL image as its mode and pixels; anything else as it is."""
    return [part.mode, np.asarray(part)] if hasattr(part, "tobytes") and hasattr(part, "mode") else part
