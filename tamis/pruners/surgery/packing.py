"""Rows of a table as int8, int4 or int2 with a scale and a bias of their own; tensors only, no modules.

The layout of a row is that of torch's quantised embedding bags (`torch.ops.quantized`): the numbers, low bits first,
then scale and bias, two float32 after int8 and two float16 after int4 and int2; number = code x scale + bias. On a CPU
those operators look rows up and pool them; elsewhere (CUDA, torch.compile, export) the same bytes are read with plain
tensor operations, which compilers fuse. Why these operators: `docs/methods/quantize.md`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tamis.core.checks import check_choice

__all__ = [
    "TYPES",
    "check_stored",
    "has_operator",
    "pack_rows",
    "pack_values",
    "pooled_rows",
    "row_bytes",
    "rows_of",
    "scale_bytes",
    "scales_of",
    "unpack_codes",
    "unpack_rows",
]

TYPES = {"int8": 8, "int4": 4, "int2": 2}  # name -> bits of one number
LARGEST_HALF = 65504.0  # scales and biases of int4 and int2 are float16
_OPERATORS: Any = torch.ops.quantized
_PACK = {
    8: _OPERATORS.embedding_bag_byte_prepack.default,
    4: _OPERATORS.embedding_bag_4bit_prepack.default,
    2: _OPERATORS.embedding_bag_2bit_prepack.default,
}
_LOOK_UP = {
    8: _OPERATORS.embedding_bag_byte_rowwise_offsets.default,
    4: _OPERATORS.embedding_bag_4bit_rowwise_offsets.default,
    2: _OPERATORS.embedding_bag_2bit_rowwise_offsets.default,
}


def check_stored(name: str, stored: object) -> int:
    """Bits of the type ``stored``, one of ``int8``, ``int4`` and ``int2``.

    Raises:
        ValueError: it is none of them.
    """
    return TYPES[check_choice(name, stored, tuple(TYPES))]


def scale_bytes(bits: int) -> int:
    """Bytes of a row's scale and bias."""
    return 8 if bits == 8 else 4


def row_bytes(width: int, bits: int) -> int:
    """Bytes of a stored row of ``width`` numbers, scale and bias included; 0 for a row without numbers."""
    return -(-width * bits // 8) + scale_bytes(bits) if width else 0


def pack_rows(weight: Tensor, bits: int) -> Tensor:
    """The rows of ``weight`` rounded to ``bits``.

    Args:
        weight: [n, k] of any float dtype, finite, k >= 1; at most 65504 in size below 8 bits.
        bits: 8, 4 or 2.

    Returns:
        uint8 [n, `row_bytes` (k)], on the device of ``weight``.
    """
    rows = weight.detach().cpu().float()
    if missing := -rows.shape[1] % (8 // bits):  # the operators want whole bytes; a repeated number leaves the range
        rows = torch.cat([rows, rows[:, :1].expand(-1, missing)], dim=1)
    packed: Tensor = _PACK[bits](rows.contiguous())
    return packed.to(weight.device)


def unpack_rows(packed: Tensor, bits: int, width: int) -> Tensor:
    """The numbers of packed rows, by plain tensor operations.

    Args:
        packed: uint8 [..., `row_bytes` (width)].
        bits: 8, 4 or 2.
        width: k.

    Returns:
        float32 [..., k]
    """
    tail = scale_bytes(bits)
    codes = unpack_codes(packed[..., :-tail], bits)[..., :width]
    scale, bias = scales_of(packed[..., -tail:], bits)
    return codes.float() * scale + bias


def unpack_codes(packed: Tensor, bits: int) -> Tensor:
    """The numbers in each byte, low bits first: uint8 [..., b] -> uint8 (float32 in an export) [..., b x 8 / bits]."""
    if bits == 8:
        return packed
    if _is_exporting():  # arithmetic, which every runtime has
        steps = torch.tensor([2.0**shift for shift in range(0, 8, bits)], device=packed.device)
        whole = torch.floor(packed.float()[..., None] / steps)
        codes: Tensor = whole - torch.floor(whole / 2**bits) * 2**bits
        return codes.flatten(-2)
    shifts = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
    codes = (packed[..., None] >> shifts) & (2**bits - 1)
    return codes.flatten(-2)


def scales_of(tail: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and bias, float32 [..., 1] each, from the bytes that hold them, uint8 [..., `scale_bytes`]."""
    if _is_exporting():
        half = scale_bytes(bits) // 2
        return _floats(tail[..., :half]), _floats(tail[..., half:])
    both = tail.contiguous().view(torch.float32 if bits == 8 else torch.float16).float()
    return both[..., :1], both[..., 1:]


def _floats(raw: Tensor) -> Tensor:
    """Float numbers from their bytes, the least first, by arithmetic: exporters know no reinterpretation of bits.

    Args:
        raw: uint8 [..., 2] for float16, [..., 4] for float32; no infinity, no NaN.

    Returns:
        float32 [..., 1]
    """
    *low, second, top = raw.float().unbind(-1)
    high = top * 256 + second
    inside, digits, bias = (7, 23, 127) if low else (10, 10, 15)  # mantissa's bits in ``high``, in all; exponent's bias
    sign = torch.floor(high / 2**15)
    rest = high - sign * 2**15
    exponent = torch.floor(rest / 2**inside)
    mantissa = rest - exponent * 2**inside
    for byte in reversed(low):
        mantissa = mantissa * 256 + byte
    normal = exponent > 0
    scaled = torch.where(normal, mantissa + 2.0**digits, mantissa)
    power = torch.pow(2.0, torch.where(normal, exponent, 1.0) - (bias + digits))
    return ((1 - 2 * sign) * scaled * power)[..., None]


def pack_values(values: Tensor, counts: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths, rounded as `pack_rows` rounds them, codes in one stream.

    Args:
        values: [nnz], row by row.
        counts: [n] int64: how many values each row has.
        bits: 8, 4 or 2.

    Returns:
        the codes, uint8 [ceil(nnz x bits / 8)], and the rows' scale and bias, uint8 [n, `scale_bytes`].
    """
    values = values.detach().float()
    kind = torch.float32 if bits == 8 else torch.float16
    row = torch.repeat_interleave(torch.arange(len(counts), device=values.device), counts)
    least = values.new_zeros(len(counts)).scatter_reduce_(0, row, values, "amin", include_self=False).to(kind).float()
    most = values.new_zeros(len(counts)).scatter_reduce_(0, row, values, "amax", include_self=False)
    scale = ((most - least) / (2**bits - 1)).to(kind).float()
    scale = torch.where(scale != 0, scale, 1.0)  # below 0 where half precision has rounded the least value up
    codes = ((values - least[row]) / scale[row]).round().clamp(0, 2**bits - 1).to(torch.uint8)
    codes = F.pad(codes, (0, -len(codes) % (8 // bits))).view(-1, 8 // bits)
    shifts = torch.arange(0, 8, bits, device=codes.device, dtype=torch.uint8)
    stream = (codes << shifts).sum(1, dtype=torch.uint8)
    return stream, torch.stack([scale, least], dim=1).to(kind).view(torch.uint8)


def rows_of(packed: Tensor, bits: int, width: int, ids: Tensor) -> Tensor:
    """The numbers of rows ``ids``.

    Args:
        packed: uint8 [n, `row_bytes` (width)].
        bits: 8, 4 or 2.
        width: k.
        ids: [...] int64 or int32.

    Returns:
        float32 [..., k]

    Raises:
        RuntimeError, IndexError: an id out of range.
    """
    if not has_operator(packed):
        return unpack_rows(packed.index_select(0, ids.reshape(-1)), bits, width).reshape(*ids.shape, width)
    flat = ids if ids.dim() == 1 else ids.reshape(-1)
    bags = _bags_of_one(len(flat), flat.dtype)
    rows: Tensor = _LOOK_UP[bits](packed, flat.contiguous(), bags)  # a column of a batch is not contiguous
    if rows.shape[1] != width:
        rows = rows[:, :width]
    return rows if ids.dim() == 1 else rows.reshape(*ids.shape, width)


@lru_cache(maxsize=4)
def _bags_of_one(count: int, dtype: torch.dtype) -> Tensor:
    """Where bags of one row begin; kept, since batches are as long as the ones before."""
    return torch.arange(count, dtype=dtype)


def pooled_rows(
    packed: Tensor, bits: int, width: int, ids: Tensor, offsets: Tensor, weights: Tensor | None, last: bool
) -> Tensor | None:
    """Sums of bags of rows by the operator of the type; None where there is none.

    Args:
        packed: uint8 [n, `row_bytes` (width)].
        bits: 8, 4 or 2.
        width: k.
        ids: [N] int64 or int32.
        offsets: [B], or [B + 1] with ``last``: where each bag begins.
        weights: [N] factors of the rows, or None.
        last: ``include_last_offset`` of `nn.EmbeddingBag`.

    Returns:
        float32 [B, k]
    """
    if not has_operator(packed):
        return None
    weights = None if weights is None else weights.float().contiguous()  # the operator reads as if there were no gaps
    sums: Tensor = _LOOK_UP[bits](
        packed,
        ids.contiguous(),
        offsets.to(ids.dtype).contiguous(),
        per_sample_weights=weights,
        include_last_offset=last,
    )
    return sums[:, :width]


def has_operator(packed: Tensor) -> bool:
    """Eager on a CPU. Compilers and exporters see plain operations instead."""
    return packed.is_cpu and not torch.compiler.is_compiling() and not _is_tracing()


_is_tracing: Any = getattr(torch.jit, "is_tracing")  # noqa: B009  (untyped)


def _is_exporting() -> bool:
    """While `torch.export`, `torch.onnx.export` or `torch.jit.trace` looks at the model."""
    exporting = getattr(torch.compiler, "is_exporting", torch.onnx.is_in_onnx_export)  # from torch 2.7 on
    return bool(_is_tracing() or exporting() or torch.onnx.is_in_onnx_export())
