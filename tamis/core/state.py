"""Training-time state as JSON text: nested dicts and lists, plain values, tensors and arrays. No pickle.

Tensors become ``{"__tensor__": base64, "dtype": ..., "shape": [...]}``, bit for bit, so that a state fits into
whatever JSON a trainer already writes beside its checkpoint (4/3 of the tensor's bytes).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tamis.core.errors import TamisError
from tamis.core.files import write_atomically
from tamis.core.types import JsonState, PathOrStr

__all__ = ["from_jsonable", "read_state", "to_jsonable", "write_state"]

_MARK = "__tensor__"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)}  # fmt: skip


def to_jsonable(value: object) -> Any:
    """``value`` with every tensor or array replaced by its JSON form; tuples become lists.

    Raises:
        TypeError: something that is neither JSON nor a tensor; the message says where.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        value = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value.item()
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        return {
            _MARK: base64.b64encode(data).decode("ascii"),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
        }
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"state value {value!r}: must be JSON, a tensor or an array, got {type(value).__name__}")


def from_jsonable(value: object) -> Any:
    """The inverse of `to_jsonable` (arrays come back as tensors, tuples as lists)."""
    if isinstance(value, dict):
        if _MARK not in value:
            return {key: from_jsonable(item) for key, item in value.items()}
        dtype = _DTYPES[value["dtype"]]
        data = bytearray(base64.b64decode(value[_MARK], validate=True))
        flat = torch.frombuffer(data, dtype=torch.uint8).view(dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(value["shape"]).clone()
    if isinstance(value, list):
        return [from_jsonable(item) for item in value]
    return value


def write_state(path: PathOrStr, state: JsonState) -> None:
    """Write a state to a JSON file; an interrupted write leaves the old file.

    Args:
        path: the file.
        state: as `to_jsonable` takes it.

    Raises:
        TypeError: something in it is neither JSON nor a tensor.
    """
    write_atomically(path, json.dumps(to_jsonable(state)).encode("utf-8"))


def read_state(path: PathOrStr) -> JsonState:
    """Read what `write_state` wrote.

    Raises:
        TamisError: no such file, or it is damaged.
    """
    try:
        state = from_jsonable(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise TamisError(
            f"{path}: no readable tamis state ({type(error).__name__}: {error}); was the checkpoint written with the "
            "component attached? Attach it before training, or start from this checkpoint without it"
        ) from error
    if not isinstance(state, dict):
        raise TamisError(f"{path}: holds a {type(state).__name__}, not a state; restore the checkpoint from a copy")
    return state
