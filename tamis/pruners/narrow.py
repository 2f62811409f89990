"""The surgery on modules: a table that loses columns, its stand-in of the old width, a linear layer that loses inputs.

Everything here changes a model in place, one tensor at a time: the peak of extra memory is one narrow table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis.pruners.transplant import narrow_parameter

__all__ = ["NarrowEmbedding", "embedding_modules", "narrow_table", "replace_module", "slice_linear"]


class NarrowEmbedding(nn.Module):
    """A table with k of d columns that still returns rows of width d, for layers that need equal widths.

    By default the k numbers are put back where they were and the others are 0: exactly the table whose cut columns
    are zero. With `add_projection` a trainable matrix, at first the same map, takes the place of the fixed one (the
    per-field transform of Zhao et al., "AutoDim", and of the thesis' Section 6.4).

    Args:
        table: `nn.Embedding` or `nn.EmbeddingBag` (or a subclass) of width k; it may have 0 columns.
        kept: [k] int64, sorted: the place of each column in the wide row.
        dim: d, the width of the rows that come out.
    """

    kept: Tensor

    def __init__(self, table: nn.Module, kept: Tensor, dim: int) -> None:
        super().__init__()
        self.table = table
        self.embedding_dim = dim
        self.projection: nn.Parameter | None = None
        self.register_buffer("kept", kept.to(self.weight.device), persistent=False)  # the plan is what is saved

    @property
    def weight(self) -> Tensor:
        """The narrow table, [rows, k]."""
        return self.table.weight  # type: ignore[return-value]

    @property
    def num_embeddings(self) -> int:
        return self.weight.shape[0]

    @property
    def padding_idx(self) -> int | None:
        return self.table.padding_idx  # type: ignore[return-value]

    def add_projection(self) -> None:
        """Make the map from k to d a trainable matrix [d, k], starting as the fixed one."""
        matrix = self.weight.new_zeros(self.embedding_dim, len(self.kept))
        matrix[self.kept, torch.arange(len(self.kept), device=matrix.device)] = 1
        self.projection = nn.Parameter(matrix)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the wide table would return for the same arguments, [..., d]."""
        rows: Tensor = self.table(*args, **kwargs)
        if self.projection is not None:
            return F.linear(rows, self.projection)
        return rows.new_zeros(*rows.shape[:-1], self.embedding_dim).index_copy_(-1, self.kept, rows)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {len(self.kept)} of {self.embedding_dim}"


def embedding_modules(model: nn.Module) -> dict[str, nn.Embedding | nn.EmbeddingBag]:
    """Path -> module for each `nn.Embedding` and `nn.EmbeddingBag`; one that stands at two paths is there twice."""
    paths = model.named_modules(remove_duplicate=False)
    return {path: module for path, module in paths if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` at every place of ``model`` where ``old`` stands."""
    for parent in list(model.modules()):
        if parent is not new:
            for name, child in list(parent._modules.items()):
                if child is old:
                    setattr(parent, name, new)


def narrow_table(
    model: nn.Module, modules: Sequence[Any], kept: Tensor, optimizers: Sequence[torch.optim.Optimizer] = ()
) -> list[NarrowEmbedding]:
    """Cut the table that ``modules`` share to its ``kept`` columns and put a `NarrowEmbedding` around each of them.

    The modules stay the same objects, with their hooks and options. A tensor that another module shares too (a tied
    head) stays as it is there.
    """
    old: nn.Parameter = modules[0].weight
    others = (module for module in model.modules() if not any(module is mine for mine in modules))
    tied = any(parameter is old for module in others for parameter in module._parameters.values())
    new = narrow_parameter(old, kept, optimizers, keep_old=tied)
    wrappers = []
    for module in modules:
        module.weight = new
        module.embedding_dim = len(kept)
        wrapper = NarrowEmbedding(module, kept, old.shape[1]).train(module.training)
        replace_module(model, module, wrapper)
        wrappers.append(wrapper)
    return wrappers


def slice_linear(linear: Any, columns: Tensor, optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
    """Cut an `nn.Linear` to the input ``columns`` [k] that are still fed."""
    linear.weight = narrow_parameter(linear.weight, columns, optimizers)
    linear.in_features = len(columns)
