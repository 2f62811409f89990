"""The surgery on modules: a table that loses columns, how it can still return wide rows, a layer that loses inputs.

Everything changes a model in place. The modules stay the objects they were, with their hooks and options and the
names of their weights; a table that has to return rows of its old width changes its class. The peak of extra memory
is one narrow table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis.pruners.surgery.transplant import narrow_parameter

__all__ = [
    "NarrowEmbedding",
    "NarrowEmbeddingBag",
    "embedding_modules",
    "narrow_table",
    "return_narrow",
    "return_wide",
    "slice_linear",
    "untie",
    "used_elsewhere",
]

Embedding = nn.Embedding | nn.EmbeddingBag


class _Narrow(nn.Module):
    """A table [rows, k] that returns rows of width d; ``embedding_dim`` is d.

    By default the k numbers go back to where they were and the others are 0: exactly the table whose cut columns are
    zero. With `add_projection` a trainable matrix, at first the same map, takes the place of the fixed one (the
    transform layer per field of DimReg and AutoDim).
    """

    plain_class: ClassVar[type[nn.Module]]
    weight: Tensor
    kept: Tensor
    projection: nn.Parameter | None
    embedding_dim: int

    def add_projection(self) -> None:
        """Make the map from k to d a trainable matrix [d, k], starting as the fixed one."""
        matrix = self.weight.new_zeros(self.embedding_dim, len(self.kept))
        matrix[self.kept, torch.arange(len(self.kept), device=matrix.device)] = 1
        self.projection = nn.Parameter(matrix)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        rows: Tensor = super().forward(*args, **kwargs)
        if self.projection is not None:
            return F.linear(rows, self.projection)
        return rows.new_zeros(*rows.shape[:-1], self.embedding_dim).scatter_(-1, self.kept.expand_as(rows), rows)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, {len(self.kept)} of {self.embedding_dim}"


class NarrowEmbedding(_Narrow, nn.Embedding):
    """`nn.Embedding` with k of d columns that returns rows of width d; made by `cut`, never constructed."""

    plain_class = nn.Embedding


class NarrowEmbeddingBag(_Narrow, nn.EmbeddingBag):
    """`nn.EmbeddingBag` with k of d columns that returns rows of width d; made by `cut`, never constructed."""

    plain_class = nn.EmbeddingBag


_NARROW: dict[type[nn.Module], type[_Narrow]] = {nn.Embedding: NarrowEmbedding, nn.EmbeddingBag: NarrowEmbeddingBag}


def embedding_modules(model: nn.Module) -> dict[str, nn.Embedding | nn.EmbeddingBag]:
    """Path -> module for each `nn.Embedding` and `nn.EmbeddingBag`; one that stands at two paths is there twice."""
    paths = model.named_modules(remove_duplicate=False)
    return {path: module for path, module in paths if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}


def used_elsewhere(model: nn.Module, modules: Sequence[nn.Module]) -> bool:
    """True if a module other than ``modules``, which share a table, has the table as a parameter too (a tied head).

    Args:
        model: holds them all.
        modules: embedding modules with one weight.
    """
    others = (module for module in model.modules() if not any(module is mine for mine in modules))
    return any(p is modules[0].weight for other in others for p in other._parameters.values())


def untie(model: nn.Module, modules: Sequence[nn.Module]) -> bool:
    """Whether the table is used elsewhere; a `transformers` config is then told that the head is no longer tied.

    Args:
        model: holds them all.
        modules: embedding modules with one weight, which is about to be replaced in them.
    """
    tied = used_elsewhere(model, modules)
    config: Any = getattr(model, "config", None) if hasattr(model, "save_pretrained") else None
    if tied and getattr(config, "tie_word_embeddings", False):
        config.tie_word_embeddings = False
    return tied


def narrow_table(
    model: nn.Module, modules: Sequence[Embedding], kept: Tensor, optimizers: Sequence[torch.optim.Optimizer] = ()
) -> None:
    """Cut the table that ``modules`` share to its ``kept`` columns; they go on returning rows of the old width.

    A tensor that another module shares too stays as it is there.

    Args:
        model: holds the modules.
        modules: embedding modules with one weight [n, d].
        kept: [k] int64, sorted.
        optimizers: whose state is cut with the weight.
    """
    old: Any = modules[0].weight
    width = old.shape[1]
    new = narrow_parameter(old, kept, optimizers, keep_old=untie(model, modules))
    for module in modules:
        module.weight = new
        return_wide(module, kept, width)


def return_wide(module: nn.Module, kept: Tensor, width: int) -> None:
    """Make a narrow table return rows [..., width], zero except at ``kept``.

    Args:
        module: an embedding module with a weight [n, k].
        kept: [k] int64, sorted.
        width: d.
    """
    plain = type(module)
    if plain not in _NARROW:  # somebody's subclass, which `cut` has tried
        kind = NarrowEmbedding if issubclass(plain, nn.Embedding) else NarrowEmbeddingBag
        _NARROW[plain] = type(f"Narrow{plain.__name__}", (kind, plain), {"plain_class": plain})
    narrow: Any = module
    narrow.__class__ = _NARROW[plain]
    narrow.embedding_dim = width
    narrow.projection = None
    narrow.register_buffer("kept", kept.to(narrow.weight.device), persistent=False)  # the plan is what is saved


def return_narrow(module: nn.Module) -> None:
    """Undo `return_wide`: a plain narrow table."""
    narrow: Any = module
    del narrow.kept, narrow.projection
    narrow.embedding_dim = narrow.weight.shape[1]
    narrow.__class__ = narrow.plain_class


def slice_linear(linear: nn.Module, columns: Tensor, optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
    """Cut an `nn.Linear` to the input ``columns`` that are still fed.

    Args:
        linear: the layer.
        columns: [k] int64, sorted.
        optimizers: whose state is cut with the weight.
    """
    layer: Any = linear
    layer.weight = narrow_parameter(layer.weight, columns, optimizers)
    layer.in_features = len(columns)
