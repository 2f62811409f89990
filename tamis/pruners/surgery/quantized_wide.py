"""Quantised tables of blocks and of single values; both return wide rows, as their float forms in `blocks` do.

Each row of a block has its numbers, scale and bias side by side; the rows of all parts stand one after the other in
one tensor of bytes. Single values keep the CSR form: one stream of codes, and a scale and a bias per row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tamis.pruners.surgery.blocks import BlockEmbedding, BlockEmbeddingBag, ValueEmbedding, ValueEmbeddingBag
from tamis.pruners.surgery.packing import (
    has_operator,
    pack_rows,
    pack_values,
    row_bytes,
    rows_of,
    scale_bytes,
    scales_of,
)
from tamis.pruners.surgery.quantized import Quantized, pool_static

__all__ = ["QuantizedBlockEmbedding", "QuantizedValueEmbedding", "pack_blocks", "pack_single_values"]


class _Wide(Quantized):
    def look_up(self, ids: Tensor) -> Tensor:
        """Rows [..., d] of ``ids`` [...], in the model's dtype."""
        return self._wide(ids.reshape(-1)).reshape(*ids.shape, -1).to(self.like.dtype)

    def _wide(self, flat: Tensor) -> Tensor:
        raise NotImplementedError

    def dequantize(self) -> Tensor:
        table: Any = self
        return self.look_up(torch.arange(table.num_embeddings, device=self.like.device))


class _PackedBlocks(_Wide):
    """Attributes: see `BlockEmbedding`; ``spots``: per part and once for the rows in none.

    Attributes:
        ends: [P] int64: where each part ends in the order of ``place``.
        spots: [P + 1, 3] int64: the part's first place, its first byte, the bytes of its rows.
        slots: [P + 1, d] int64: which number of a row of the part stands in each column, -1 for none.
        layout: per part its first place, its rows, its first byte, its width.
    """

    place: Tensor
    ends: Tensor
    spots: Tensor
    slots: Tensor
    layout: list[tuple[int, int, int, int]]

    def _wide(self, flat: Tensor) -> Tensor:
        place = self.place.index_select(0, flat).long()  # refuses ids below 0
        return self._by_parts(place) if has_operator(self.owner.packed) else self._by_bytes(place)

    def _by_parts(self, place: Tensor) -> Tensor:
        """Part by part, with the operator of the type."""
        wide = torch.zeros(len(place), self.slots.shape[1])
        packed: Tensor = self.owner.packed
        for number, (first, rows, base, width) in enumerate(self.layout):
            size = row_bytes(width, self.bits)
            inside = (place >= first) & (place < first + rows)
            table = packed[base : base + rows * size].view(rows, size)
            if width:
                found = rows_of(table, self.bits, width, place[inside] - first)
                columns = getattr(self, f"columns{number}")
                wide[inside] = found.new_zeros(len(found), wide.shape[1]).index_copy_(1, columns, found)
        return wide

    def _by_bytes(self, place: Tensor) -> Tensor:
        """A few gathers whose shapes do not depend on the ids: for compilers, exporters and CUDA."""
        part = torch.bucketize(place, self.ends, right=True)
        first, base, size = self.spots[part].unbind(1)
        start, slot = base + (place - first) * size, self.slots[part]
        numbers = start[:, None] * (8 // self.bits) + slot.clamp(min=0)
        tail = scale_bytes(self.bits)
        ends = (start + size - tail).clamp(min=0)[:, None] + torch.arange(tail, device=place.device)
        packed: Tensor = self.owner.packed
        scale, bias = scales_of(packed[ends], self.bits)
        return torch.where(slot >= 0, _codes(packed, numbers, self.bits) * scale + bias, 0.0)


class _PackedValues(_Wide):
    """Attributes: see `ValueEmbedding`, whose ``weight`` is a stream of codes here.

    Attributes:
        scales: uint8 [n, `scale_bytes`]: scale and bias of each row; of the first module that shares the table.
    """

    column: Tensor
    start: Tensor

    def _wide(self, flat: Tensor) -> Tensor:
        table: Any = self
        first = self.start.index_select(0, flat).long()  # refuses ids below 0
        count = self.start.index_select(0, flat + 1).long() - first
        row = torch.repeat_interleave(torch.arange(len(flat), device=flat.device), count)
        at = torch.repeat_interleave(first - (count.cumsum(0) - count), count)
        at = at + torch.arange(len(row), device=flat.device)
        scale, bias = scales_of(self.owner.scales[flat], self.bits)
        values = _codes(self.owner.packed, at, self.bits) * scale[row, 0] + bias[row, 0]
        wide = values.new_zeros(len(flat), table.embedding_dim)
        return wide.index_put((row, self.column[at].long()), values)


def _codes(packed: Tensor, numbers: Tensor, bits: int) -> Tensor:
    """The ``numbers``-th codes of a stream, float32 of the shape of ``numbers``."""
    per_byte = 8 // bits
    codes: Tensor = packed[numbers // per_byte].to(torch.int32) >> (numbers % per_byte * bits).to(torch.int32)
    return codes.bitwise_and(2**bits - 1).float()


class _Embedding(_Wide):
    def forward(self, input: Tensor) -> Tensor:
        self._check_inference()
        return self.look_up(input)


class _Bag(_Wide):
    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        self._check_inference()
        return pool_static(self, self.look_up, input, offsets, per_sample_weights)


class QuantizedBlockEmbedding(_PackedBlocks, _Embedding, nn.Embedding):
    """`BlockEmbedding` whose rows are stored as int8, int4 or int2."""


class QuantizedBlockEmbeddingBag(_PackedBlocks, _Bag, nn.EmbeddingBag):
    """`BlockEmbeddingBag` whose rows are stored as int8, int4 or int2."""


class QuantizedValueEmbedding(_PackedValues, _Embedding, nn.Embedding):
    """`ValueEmbedding` whose values are stored as int8, int4 or int2."""


class QuantizedValueEmbeddingBag(_PackedValues, _Bag, nn.EmbeddingBag):
    """`ValueEmbeddingBag` whose values are stored as int8, int4 or int2."""


WIDE: dict[type[nn.Module], type[nn.Module]] = {
    BlockEmbedding: QuantizedBlockEmbedding,
    BlockEmbeddingBag: QuantizedBlockEmbeddingBag,
    ValueEmbedding: QuantizedValueEmbedding,
    ValueEmbeddingBag: QuantizedValueEmbeddingBag,
}


def pack_blocks(modules: list[Any], bits: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take the parts of block tables off their ``modules``, which share them.

    Returns:
        the buffers that are saved, and those that the plan gives.
    """
    first = modules[0]
    parts: list[Tensor] = list(first.parts)
    columns = [getattr(first, f"columns{number}") for number in range(len(parts))]
    packed = [pack_rows(part, bits).flatten() for part in parts if part.shape[1]]
    device, count = first.place.device, len(parts)
    slots = torch.full((count + 1, first.embedding_dim), -1, dtype=torch.int64)
    spots = torch.zeros(count + 1, 3, dtype=torch.int64)
    layout, place, base = [], 0, 0
    for number, (part, kept) in enumerate(zip(parts, columns, strict=True)):
        size = row_bytes(part.shape[1], bits)
        slots[number, kept.cpu()] = torch.arange(len(kept))
        spots[number] = torch.tensor([place, base, size])
        layout.append((place, len(part), base, part.shape[1]))
        place, base = place + len(part), base + size * len(part)
    ends = torch.tensor([len(part) for part in parts], dtype=torch.int64).cumsum(0)
    for module in modules:
        del module.parts
        module.layout = layout
    rest = {"ends": ends.to(device), "spots": spots.to(device), "slots": slots.to(device)}
    return {"packed": torch.cat(packed)}, rest


def pack_single_values(modules: list[Any], bits: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Take the values of value tables off their ``modules``, which share them; returns as `pack_blocks`."""
    stream, scales = pack_values(modules[0].weight, modules[0].start.long().diff(), bits)
    for module in modules:
        del module.weight
    return {"packed": stream, "scales": scales}, {}
