"""Tables that are stored as int8, int4 or int2 and look up float rows; inference only.

Made by `quantize_embeddings` (or a `quantize=` of whoever calls it) from a plain table or from any form that `cut`
leaves. The modules stay the objects they were and change their class. Saved with the model: ``packed``, uint8, the
rows as `packing` lays them out (and ``scales`` for single values). A table that several modules share is saved by the
first of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis.pruners.surgery.narrow import NarrowEmbedding, NarrowEmbeddingBag
from tamis.pruners.surgery.packing import pooled_rows, rows_of, unpack_rows

__all__ = ["Quantized", "QuantizedEmbedding", "QuantizedEmbeddingBag"]


class Quantized(nn.Module):
    """What every quantised table shares.

    Attributes:
        stored: ``int8``, ``int4`` or ``int2``.
        bits: of one number.
        width: k, of a stored row; ``embedding_dim`` is the width of what comes out.
        packed: uint8, the rows; of the first module that shares the table.
        like: no elements; its dtype is that of the rows that come out, and follows ``model.to(dtype)``.
        frozen: True once ``requires_grad_(False)`` was called: what lies behind the table may then be trained.
    """

    stored: str
    bits: int
    width: int
    like: Tensor
    padding_idx: int | None
    frozen = False

    @property
    def owner(self) -> Any:
        """The module that holds the table's bytes."""
        return self.__dict__.get("_owner", self)

    def look_up(self, ids: Tensor) -> Tensor:
        """Rows [..., k] of ``ids`` [...], in the model's dtype."""
        rows = rows_of(self.owner.packed, self.bits, self.width, ids)
        dtype = self.like.dtype
        return rows if dtype is torch.float32 else rows.to(dtype)

    def dequantize(self) -> Tensor:
        """The whole table as it is looked up, [n, k], in the model's dtype: a copy."""
        return unpack_rows(self.owner.packed, self.bits, self.width).to(self.like.dtype)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """False freezes the table, so that what lies behind it can be trained.

        Raises:
            RuntimeError: True; a quantised table cannot be trained.
        """
        if requires_grad:
            raise RuntimeError(self._refusal())
        super().requires_grad_(False)
        self.frozen = True
        return self

    def _check_inference(self) -> None:
        if self.training and torch.is_grad_enabled() and not self.frozen:
            raise RuntimeError(self._refusal())

    def _refusal(self) -> str:
        return (
            f"{type(self).__name__}({self.extra_repr()}): is stored as {self.stored} and cannot be trained; call "
            "model.eval() for inference, train the model before it is quantised, or, to train only what lies behind "
            "this table, call requires_grad_(False) on the table"
        )

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                f"{type(self).__name__} has no 'weight': its rows are stored as {self.stored}; call the module to look "
                "rows up, or dequantize() for all of them"
            )
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        here: Any = self
        return f"{here.num_embeddings}, {here.embedding_dim}, stored as {self.stored}"


class QuantizedEmbedding(Quantized, nn.Embedding):
    """`nn.Embedding` whose rows are stored as int8, int4 or int2; made by `quantize_embeddings`."""

    def forward(self, input: Tensor) -> Tensor:
        self._check_inference()
        return self.look_up(input)


class QuantizedEmbeddingBag(Quantized, nn.EmbeddingBag):
    """`nn.EmbeddingBag` whose rows are stored as int8, int4 or int2; made by `quantize_embeddings`."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        self._check_inference()
        sums = None
        learned = per_sample_weights is not None and per_sample_weights.requires_grad and torch.is_grad_enabled()
        if self.mode != "max" and not learned and (per_sample_weights is None or self.mode == "sum"):
            sums = _sums(self, self.owner.packed, input, offsets, per_sample_weights)
        if sums is None:
            return pool_static(self, self.look_up, input, offsets, per_sample_weights)
        return sums.to(self.like.dtype)


def _sums(bag: Any, packed: Tensor, input: Tensor, offsets: Tensor | None, weights: Tensor | None) -> Tensor | None:
    """Sum or mean by the operator; None where there is none, or for input that `nn.EmbeddingBag` refuses."""
    if (input.dim() == 2) is (offsets is not None) or (weights is not None and weights.shape != input.shape):
        return None
    last = bag.include_last_offset and offsets is not None
    flat = input.reshape(-1)
    if offsets is None:
        offsets = torch.arange(len(input), device=input.device) * input.shape[1]
    weights = None if weights is None else weights.reshape(-1)
    trained = None if bag.padding_idx is None else flat != bag.padding_idx
    if trained is not None:
        weights = trained.float() if weights is None else weights.float() * trained
    sums = pooled_rows(packed, bag.bits, bag.width, flat, offsets, weights, last)
    if sums is None or bag.mode == "sum":
        return sums
    counted = torch.ones_like(flat) if trained is None else trained
    until = F.pad(counted.cumsum(0, dtype=torch.int64), (1, 0))  # how many count before each place
    ends = offsets[1:] if last else torch.cat([offsets[1:], offsets.new_full((1,), len(flat))])
    starts = offsets[:-1] if last else offsets
    return sums / (until[ends] - until[starts]).clamp(min=1)[:, None]


def pool_static(
    bag: Any,
    look_up: Callable[[Tensor], Tensor],
    input: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
) -> Tensor:
    """As `tamis.pruners.gates.pool`, every id looked up as often as it occurs, so that no shape depends on the ids.

    Args:
        bag: whose mode and padding count.
        look_up: ids [N] -> rows [N, d].
        input: [B, N], or [N] with ``offsets``.
        offsets: [B], or None.
        per_sample_weights: of the shape of ``input``, or None.

    Returns:
        [B, d]
    """
    flat = input.reshape(-1)
    rows = look_up(flat)
    places = torch.arange(len(flat), device=flat.device)
    padding = None
    if bag.padding_idx is not None:
        padding = len(flat)
        rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
        places = torch.where(flat == bag.padding_idx, padding, places)
    return F.embedding_bag(
        places.reshape(input.shape),
        rows,
        None if offsets is None else offsets.long(),
        mode=bag.mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=bag.include_last_offset,
        padding_idx=padding,
    )


class QuantizedNarrowEmbedding(NarrowEmbedding, QuantizedEmbedding):
    """`NarrowEmbedding` whose rows are stored as int8, int4 or int2."""

    extra_repr = Quantized.extra_repr


class QuantizedNarrowEmbeddingBag(NarrowEmbeddingBag, QuantizedEmbeddingBag):
    """`NarrowEmbeddingBag` whose rows are stored as int8, int4 or int2."""

    extra_repr = Quantized.extra_repr
