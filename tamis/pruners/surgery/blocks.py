"""Tables that keep other columns for each block of rows, and tables that keep single values; both return wide rows.

Made by `cut` from a `Selection` that is more than columns. The modules stay the objects they were and change their
class; what is cut reads as zero. Saved with the model: a block table's ``parts.0``, ``parts.1``, ... [r, k], a value
table's ``weight`` [nnz]. The plan says where the values stand; ``place``, ``column`` and ``start`` are made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis.pruners.gates import pool
from tamis.pruners.selection import Selection
from tamis.pruners.surgery.narrow import untie
from tamis.pruners.surgery.transplant import replace_parameter, takes_of

__all__ = [
    "BlockEmbedding",
    "BlockEmbeddingBag",
    "ValueEmbedding",
    "ValueEmbeddingBag",
    "csr_of",
    "index_bytes",
    "place_of",
    "split_table",
]


class _Wide(nn.Module):
    """What the four modules share: rows of width ``embedding_dim`` from something smaller."""

    embedding_dim: int
    num_embeddings: int
    sparse: bool
    padding_idx: int | None

    def look_up(self, ids: Tensor) -> Tensor:
        """Rows [..., d] of ``ids`` [...]."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        left = sum(parameter.numel() for parameter in self.parameters())
        return f"{self.num_embeddings}, {self.embedding_dim}, values={left}"


class _Embedding(_Wide):
    def forward(self, input: Tensor) -> Tensor:
        return self.look_up(input)


class _Bag(_Wide):
    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        bag: Any = self
        return pool(bag, self.look_up, input, offsets, per_sample_weights)


class _Blocks(_Wide):
    """Rows in parts, each [r, k] with columns of its own; rows in no part are zero.

    Attributes:
        parts: the parts' tables, [r, k] each.
        place: [n] uint8 or int32: the row's number when the rows of all parts stand one after the other, then the
            rows in no part.
    """

    parts: nn.ParameterList
    place: Tensor

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                f"{type(self).__name__} has no 'weight': its rows stand in {len(self.parts)} parts of different widths "
                "(.parts); call the module to look rows up at full width"
            )
        return super().__getattr__(name)

    def set_columns(self, columns: Sequence[Tensor]) -> None:
        """Say which columns each part keeps, [k] int64 each."""
        for number, kept in enumerate(columns):
            self.register_buffer(f"columns{number}", kept.to(self.place.device), persistent=False)

    def look_up(self, ids: Tensor) -> Tensor:
        place = self.place.index_select(0, ids.reshape(-1)).reshape(ids.shape).long()  # refuses ids below 0
        dtype, device = self.parts[0].dtype, self.place.device
        wide = torch.zeros(*ids.shape, self.embedding_dim, dtype=dtype, device=device)
        padding = None if self.padding_idx is None else int(self.place[self.padding_idx])
        start = 0
        for number, part in enumerate(self.parts):
            inside = (place >= start) & (place < start + len(part))
            hold = padding - start if padding is not None and start <= padding < start + len(part) else None
            rows = F.embedding(place[inside] - start, part, padding_idx=hold, sparse=self.sparse)
            columns = getattr(self, f"columns{number}")
            wide[inside] = rows.new_zeros(len(rows), self.embedding_dim).index_copy(1, columns, rows)
            start += len(part)
        return wide


class _Values(_Wide):
    """Single values in the CSR form.

    Attributes:
        weight: [nnz] the values, row by row.
        column: [nnz] uint8 or int32.
        start: [n + 1] int32 or int64: where each row's values begin.
    """

    weight: Tensor
    column: Tensor
    start: Tensor

    def look_up(self, ids: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        first = self.start.index_select(0, flat).long()  # refuses ids below 0
        count = self.start.index_select(0, flat + 1).long() - first
        row = torch.repeat_interleave(torch.arange(len(flat), device=flat.device), count)
        begin = torch.repeat_interleave(first - (count.cumsum(0) - count), count)
        at = begin + torch.arange(len(row), device=flat.device)
        values = self.weight[at]
        if self.padding_idx is not None:  # its row is not trained
            values = torch.where(flat[row] == self.padding_idx, values.detach(), values)
        wide = values.new_zeros(len(flat), self.embedding_dim)
        return wide.index_put((row, self.column[at].long()), values).reshape(*ids.shape, self.embedding_dim)


class BlockEmbedding(_Embedding, _Blocks, nn.Embedding):
    """`nn.Embedding` whose blocks of rows keep columns of their own; made by `cut`, never constructed."""


class BlockEmbeddingBag(_Bag, _Blocks, nn.EmbeddingBag):
    """`nn.EmbeddingBag` whose blocks of rows keep columns of their own; made by `cut`, never constructed."""


class ValueEmbedding(_Embedding, _Values, nn.Embedding):
    """`nn.Embedding` that keeps single values; made by `cut`, never constructed."""


class ValueEmbeddingBag(_Bag, _Values, nn.EmbeddingBag):
    """`nn.EmbeddingBag` that keeps single values; made by `cut`, never constructed."""


_Embeddings: TypeAlias = nn.Embedding | nn.EmbeddingBag


def split_table(
    model: nn.Module,
    modules: Sequence[_Embeddings],
    selection: Selection,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Cut the table that ``modules`` share to ``selection``; they go on returning rows of the old width.

    Args:
        model: holds the modules.
        modules: embedding modules with one weight [n, d].
        selection: of form ``blocks`` or ``values``.
        optimizers: whose state is split with the weight.
    """
    old: Any = modules[0].weight
    takes = takes_of(selection, *old.shape)
    new = replace_parameter(old, takes, optimizers, keep_old=untie(model, modules))
    whole: Any
    for whole in modules:
        is_bag = isinstance(whole, nn.EmbeddingBag)
        del whole.weight
        if selection.mask is not None:
            whole.__class__ = ValueEmbeddingBag if is_bag else ValueEmbedding
            whole.register_parameter("weight", new[0])
            column, start = csr_of(selection.mask)
            whole.register_buffer("column", column.to(old.device), persistent=False)
            whole.register_buffer("start", start.to(old.device), persistent=False)
        else:
            whole.__class__ = BlockEmbeddingBag if is_bag else BlockEmbedding
            whole.parts = nn.ParameterList(new)
            whole.register_buffer("place", place_of(selection, len(old)).to(old.device), persistent=False)
            whole.set_columns([part.columns for part in selection.parts])


def place_of(selection: Selection, rows: int) -> Tensor:
    """Where each row stands when the parts' rows stand one after the other, [rows] uint8 or int32."""
    named = [part.rows for part in selection.parts if part.rows is not None]
    inside = torch.cat(named) if named else torch.zeros(0, dtype=torch.int64)
    rest = torch.ones(rows, dtype=torch.bool)
    rest[inside] = False
    place = torch.empty(rows, dtype=_smallest(rows))
    place[torch.cat([inside, rest.nonzero()[:, 0]])] = torch.arange(rows, dtype=place.dtype)
    return place


def csr_of(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of the values that remain, row by row, [nnz], and where each row begins, [n + 1]."""
    counts = mask.sum(1)
    start = torch.zeros(len(mask) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=start[1:])
    column = mask.nonzero()[:, 1]
    return column.to(_smallest(mask.shape[1])), start.to(torch.int32 if int(start[-1]) < 2**31 else torch.int64)


def index_bytes(selection: Selection, rows: int, width: int) -> int:
    """Bytes that say where the values of a table [rows, width] stand; 0 for columns, which the plan knows."""
    if selection.mask is not None:
        values = selection.values(rows)
        return values * _smallest(width).itemsize + (rows + 1) * (4 if values < 2**31 else 8)
    return rows * _smallest(rows).itemsize if selection.form == "blocks" else 0


def _smallest(count: int) -> torch.dtype:
    """For numbers below ``count``; no int16: neither gloo nor NCCL can broadcast it, and DDP broadcasts buffers."""
    return torch.uint8 if count <= 2**8 else torch.int32
