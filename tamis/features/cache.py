"""Blocks of numbers kept on disk under a digest of all that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import torch

from tamis.core.distributed import broadcast_object, rank
from tamis.core.types import PathOrStr
from tamis.features.table import FeatureTable
from tamis.policy.base import fingerprint

__all__ = ["cached", "cached_on_all_ranks", "function_print"]


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


def function_print(function: object) -> list[object]:
    """A function as a part of a key: its name, its code, and the plain values that it holds.

    Args:
        function: a function, an object with ``__call__``, a `functools.partial`, a str or None.
    """
    if function is None or isinstance(function, str):
        return [function]
    if isinstance(function, partial):
        held: dict[Any, object] = {**dict(enumerate(function.args)), **function.keywords}
        return ["partial", *function_print(function.func), _plain(held)]
    bound: Any = getattr(function, "__func__", function)
    if getattr(bound, "__code__", None) is None:
        call = getattr(type(function), "__call__", None)  # noqa: B004  (its code, not whether there is one)
        return [type(function).__qualname__, *_code(call), _plain(getattr(function, "__dict__", {}))]
    cells = {str(k): cell.cell_contents for k, cell in enumerate(bound.__closure__ or ()) if _filled(cell)}
    defaults = {**dict(enumerate(bound.__defaults__ or ())), **(bound.__kwdefaults__ or {})}
    return [bound.__qualname__, *_code(bound), _plain(cells), _plain(defaults)]


def _code(function: object) -> list[object]:
    """The instructions and constants of a function and of those inside it."""
    code = function if isinstance(function, CodeType) else getattr(function, "__code__", None)
    if code is None:
        return []
    inside: list[object] = []
    for value in code.co_consts:
        ordered = sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)  # else as the run hashes
        inside.append(_code(value) if isinstance(value, CodeType) else ordered)
    return [code.co_code.hex(), list(code.co_names), inside]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (a name that is not bound yet)
    except ValueError:
        return False
    return True


def _plain(values: Mapping[Any, object]) -> list[object]:
    """Of ``values`` those that are the same in each run."""
    kept: list[object] = []
    for name, value in values.items():
        if isinstance(value, (str, int, float, bool, type(None))):
            kept.append([str(name), repr(value)])
        elif isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind != "O"):
            kept.append([str(name), value])
    return kept


def _path(folder: PathOrStr, key: tuple[object, ...]) -> Path:
    return Path(folder) / f"{fingerprint(*key).removeprefix('sha256:')[:32]}.safetensors"


def _read(path: Path) -> np.ndarray:
    block: np.ndarray = FeatureTable.load(path).groups["block"].numpy()
    return block


def _write(path: Path, block: np.ndarray) -> None:
    FeatureTable({"block": torch.from_numpy(block)}).save(path)
