"""Tables to quantised tables, in place; and what a stored table takes in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tamis.pruners.selection import Selection
from tamis.pruners.surgery.blocks import BlockEmbedding, BlockEmbeddingBag, ValueEmbedding, ValueEmbeddingBag
from tamis.pruners.surgery.narrow import NarrowEmbedding, NarrowEmbeddingBag, untie
from tamis.pruners.surgery.packing import LARGEST_HALF, check_stored, pack_rows, row_bytes, scale_bytes
from tamis.pruners.surgery.quantized import (
    Quantized,
    QuantizedEmbedding,
    QuantizedEmbeddingBag,
    QuantizedNarrowEmbedding,
    QuantizedNarrowEmbeddingBag,
)
from tamis.pruners.surgery.quantized_wide import WIDE, pack_blocks, pack_single_values

__all__ = ["check_numbers", "check_storable", "store_table", "store_tables", "stored_bytes", "tensors_of"]

_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Embedding: QuantizedEmbedding,
    nn.EmbeddingBag: QuantizedEmbeddingBag,
    NarrowEmbedding: QuantizedNarrowEmbedding,
    NarrowEmbeddingBag: QuantizedNarrowEmbeddingBag,
    **WIDE,
}


def stored_bytes(selection: Selection, rows: int, stored: str) -> int:
    """Bytes of what ``selection`` leaves of a table with ``rows`` rows, scales and biases included.

    Args:
        selection: what is left.
        rows: of the table.
        stored: ``int8``, ``int4`` or ``int2``.
    """
    bits = check_stored("stored", stored)
    if selection.mask is not None:
        return -(-selection.values(rows) * bits // 8) + rows * scale_bytes(bits)
    parts = ((rows if part.rows is None else len(part.rows), len(part.columns)) for part in selection.parts)
    return sum(count * row_bytes(width, bits) for count, width in parts)


def tensors_of(module: Any) -> list[torch.Tensor]:
    """The float tensors that hold the numbers of an embedding module of any form."""
    return list(module.parts) if isinstance(module, (BlockEmbedding, BlockEmbeddingBag)) else [module.weight]


def check_storable(path: str, module: nn.Module, stored: str) -> None:
    """Refuse a table that cannot be stored as ``stored``; nothing is changed.

    Args:
        path: how errors call it.
        module: an embedding module.
        stored: ``int8``, ``int4`` or ``int2``.

    Raises:
        TypeError: its class has a forward of its own.
        ValueError: it is quantised already, has ``max_norm``, or numbers too large for the type.
        FloatingPointError: it holds NaN or infinity.
    """
    table: Any = module
    if isinstance(module, Quantized):
        raise ValueError(f"tables: {path!r} is stored as {module.stored} already")
    if type(module) not in _QUANTIZED:
        raise TypeError(
            f"tables: {path!r} is a {type(module).__name__}, which has a forward of its own (or is gated by a pruner); "
            "name the tables to quantise without it"
        )
    if table.max_norm is not None:
        raise ValueError(f"tables: {path!r} has max_norm, which rescales rows at each lookup; set max_norm=None")
    for tensor in tensors_of(module):
        check_numbers(path, tensor, stored)


def check_numbers(path: str, numbers: torch.Tensor, stored: str) -> None:
    """Refuse numbers that cannot be stored as ``stored``; arguments and errors as those of `check_storable`."""
    if not numbers.numel():
        return
    low, high = torch.aminmax(numbers.detach())
    largest = max(abs(float(low)), abs(float(high)))
    if not largest < float("inf"):
        raise FloatingPointError(
            f"tables: {path!r} holds NaN or infinity, so nothing was quantised; repair its rows, or go back to a "
            "checkpoint from before"
        )
    if largest > LARGEST_HALF and stored != "int8":
        raise ValueError(
            f"tables: {path!r} holds numbers up to {largest:.3g}, and {stored} has scales in half precision, up to "
            f"{LARGEST_HALF:.0f}; use int8"
        )


def store_table(model: nn.Module, modules: Sequence[Any], stored: str) -> None:
    """Store the table that ``modules`` share as ``stored``; they go on returning rows of the dtype they had.

    Args:
        model: holds them; a tied head keeps its float tensor, and a `transformers` config is told.
        modules: embedding modules of one form with one table, which `check_storable` accepts.
        stored: ``int8``, ``int4`` or ``int2``.
    """
    first, bits = modules[0], check_stored("stored", stored)
    dtype = tensors_of(first)[0].dtype
    given: dict[str, torch.Tensor] = {}
    if isinstance(first, (BlockEmbedding, BlockEmbeddingBag)):
        width = first.embedding_dim
        saved, given = pack_blocks(list(modules), bits)
    elif isinstance(first, (ValueEmbedding, ValueEmbeddingBag)):
        width = first.embedding_dim
        saved, given = pack_single_values(list(modules), bits)
    else:
        width = first.weight.shape[1]
        untie(model, modules)
        saved = {"packed": pack_rows(first.weight, bits)}
        for module in modules:
            del module.weight
    device = saved["packed"].device
    for module in modules:
        module.__class__ = _QUANTIZED[type(module)]
        module.stored, module.bits, module.width = stored, bits, width
        module.register_buffer("like", torch.zeros(0, dtype=dtype, device=device), persistent=False)
        if module is first:
            for name, tensor in saved.items():
                module.register_buffer(name, tensor)
        else:
            module.__dict__["_owner"] = first  # no submodule: the bytes are saved once, by the first
        for name, tensor in given.items():
            module.register_buffer(name, tensor, persistent=False)


def store_tables(model: nn.Module, groups: Mapping[str, Sequence[Any]], stored: Mapping[str, str]) -> None:
    """`store_table` for each path of ``stored``; ``groups``: path -> the modules that share the table."""
    for path, kind in stored.items():
        store_table(model, groups[path], kind)
