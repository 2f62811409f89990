"""A pruning plan as bytes inside the model that it cut: JSON, its larger tensors compressed. Never a pickle."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.policy.spec import convert_fields

__all__ = ["from_bytes", "to_bytes"]

_LISTED = ("kept", "columns")  # short: written as lists of numbers
_PACKED = ("parts", "part_columns", "masks")


def to_bytes(
    schema: int, spec: Mapping[str, Any], hints: Mapping[str, Any], indices: Mapping[str, Mapping[str, Tensor]]
) -> Tensor:
    """A plan as a tensor of bytes.

    Args:
        schema: of the plan.
        spec: its JSON fields.
        hints: their annotations.
        indices: its tensor fields, by name and path.

    Returns:
        uint8 [bytes]
    """
    document: dict[str, Any] = {
        "schema": schema,
        "spec": convert_fields(dict(spec), dict(hints), "spec", loading=False),
        **{name: {path: index.tolist() for path, index in indices[name].items()} for name in _LISTED},
        **{name: {path: _pack(tensor) for path, tensor in indices[name].items()} for name in _PACKED},
    }
    return torch.from_numpy(np.frombuffer(json.dumps(document).encode(), dtype=np.uint8).copy())


def from_bytes(buffer: Tensor, newest: int, hints: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the plan in ``buffer``.

    Args:
        buffer: uint8 [bytes], of this release or an earlier one.
        newest: the schema that this release writes; every earlier one is read.
        hints: annotations of the JSON fields.

    Raises:
        TypeError, ValueError, KeyError, ...: the bytes are not a plan.
    """
    if buffer.dtype != torch.uint8:
        raise TypeError(f"dtype={buffer.dtype}: must be torch.uint8")
    document = json.loads(buffer.cpu().numpy().tobytes())
    if document["schema"] not in range(1, newest + 1):
        raise ValueError(f"schema={document['schema']}: this release of tamis reads 1 to {newest}")
    spec = document["spec"] if document["schema"] > 2 else {**document["spec"], "stored": {}}
    fields: dict[str, Any] = convert_fields(spec, dict(hints), "spec", loading=True)
    for name in _LISTED:
        fields[name] = {path: torch.tensor(index, dtype=torch.int64) for path, index in document[name].items()}
    if document["schema"] > 1:
        for name in _PACKED:
            fields[name] = {path: _unpack(packed) for path, packed in document[name].items()}
    return fields


def _pack(tensor: Tensor) -> dict[str, Any]:
    array = tensor.cpu().contiguous().numpy()
    wide = tensor.dtype == torch.int32  # more than 32,768 parts
    kind = "<i4" if wide else "<i2"
    raw = np.packbits(array).tobytes() if tensor.dtype == torch.bool else array.astype(kind).tobytes()
    return {
        "shape": list(tensor.shape),
        "bits": tensor.dtype == torch.bool,
        "zlib": base64.b64encode(zlib.compress(raw)).decode(),
        **({"wide": True} if wide else {}),
    }


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    shape = [int(size) for size in packed["shape"]]
    count = int(np.prod(shape, dtype=np.int64))
    kind = np.dtype("<i4" if packed.get("wide") else "<i2")
    size = -(-count // 8) if packed["bits"] else kind.itemsize * count
    raw = zlib.decompressobj().decompress(base64.b64decode(packed["zlib"], validate=True), size + 1)
    if len(raw) != size:
        raise ValueError(f"a tensor of shape {shape} must have {size} bytes, got {len(raw)}")
    if packed["bits"]:
        flat = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=count).astype(bool)
    else:
        flat = np.frombuffer(raw, dtype=kind).astype(kind.newbyteorder("="))
    return torch.from_numpy(flat).reshape(shape)
