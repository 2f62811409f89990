"""Blocks of numbers kept on disk under a digest of all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tamis.core.distributed import broadcast_object, rank
from tamis.core.types import PathOrStr
from tamis.features.table import FeatureTable
from tamis.policy.base import fingerprint

__all__ = ["cached", "cached_on_all_ranks"]


def cached(folder: PathOrStr | None, key: tuple[object, ...], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The block of ``key``: from its file, else computed and written. float32 [n, width].

    Args:
        folder: where files lie; None keeps nothing.
        key: all that the block depends on, as `fingerprint` takes it.
        compute: makes the block.
    """
    if folder is None:
        return compute()
    path = _path(folder, key)
    if path.exists():
        return _read(path)
    block = compute()
    _write(path, block)
    return block


def cached_on_all_ranks(
    folder: PathOrStr | None, key: tuple[object, ...], compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """`cached` for a ``compute`` that all ranks run together: all read, or all compute and the first one writes.

    Args:
        folder: where files lie, the same for all ranks; None keeps nothing.
        key: all that the block depends on, as `fingerprint` takes it.
        compute: makes the block; the same one on all ranks.
    """
    if folder is None:
        return compute()
    path = _path(folder, key)
    if broadcast_object(path.exists()):
        return _read(path)
    block = compute()
    if rank() == 0:
        _write(path, block)
    return block


def _path(folder: PathOrStr, key: tuple[object, ...]) -> Path:
    return Path(folder) / f"{fingerprint(*key).removeprefix('sha256:')[:32]}.safetensors"


def _read(path: Path) -> np.ndarray:
    block: np.ndarray = FeatureTable.load(path).groups["block"].numpy()
    return block


def _write(path: Path, block: np.ndarray) -> None:
    FeatureTable({"block": torch.from_numpy(block)}).save(path)
