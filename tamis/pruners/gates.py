"""Gates on embedding tables: every looked-up row is multiplied by phi = sigmoid(gate), one gate per dimension.

A gated module is the module that was there, with its class changed in place to a subclass: the weight, its name in
the state dict, hooks, tied weights, ``padding_idx`` and sparse gradients stay what they were. The gate's logits are
a buffer that requires grad: saved with the model, moved with it, never seen by the user's optimizer.

The table itself is never multiplied, only the rows that a batch looks up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tamis.core.checks import check_type
from tamis.core.distributed import all_sum_

__all__ = ["GatedEmbedding", "GatedEmbeddingBag", "Table", "find_tables", "install", "remove"]


class _Scale(torch.autograd.Function):
    """rows * sigmoid(gate), Eq. (6.4), in place: rows [..., d] of any float dtype, fresh; gate [d] float32.

    In place, because on a CPU a second copy of the rows costs more than all the rest. The gate's gradient needs the
    product only: d/d alpha = (1 - phi) x sum of grad x (phi V).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gate: Tensor) -> Tensor:
        phi = torch.sigmoid(gate)
        rows.mul_(phi.to(rows.dtype))
        ctx.mark_dirty(rows)
        ctx.save_for_backward(rows, phi, torch.sigmoid(-gate))
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        try:
            product, phi, rest = ctx.saved_tensors
        except RuntimeError as error:
            raise RuntimeError(
                "the rows that a gated embedding returned were changed in place before backward; "
                "write x = x + y in place of x += y on an embedding's output"
            ) from error
        grad_rows = grad_gate = None
        if ctx.needs_input_grad[1]:
            wide = torch.promote_types(grad.dtype, torch.float32)  # a product of two halves underflows to 0
            each = (grad.to(wide) * product.to(wide)).reshape(-1, len(phi))
            grad_gate = each.sum(0, dtype=torch.float32) * rest
        if ctx.needs_input_grad[0]:
            grad_rows = grad * phi.to(grad.dtype)
        return grad_rows, grad_gate


class _Gated(nn.Module):
    """What the two gated modules share.

    Attributes:
        gate: [d] float32, logits; a leaf that requires grad.
        counts: [rows] int32: how often each row was looked up on counted steps, by all ranks together; it stops at
            the largest int32.
        fresh: [rows] int32: the lookups of this rank in the step under way; no buffer, since ranks differ in it.
        counting: whether this step is counted.
    """

    gate: Tensor
    counts: Tensor
    fresh: Tensor
    counting: bool

    def _gated(self, rows: Tensor, ids: Tensor) -> Tensor:
        if self.counting and self.training:
            flat = ids.detach().reshape(-1)
            self.fresh.index_add_(0, flat, self.fresh.new_ones(()).expand(flat.shape))
        return _Scale.apply(rows, self.gate)  # type: ignore[no-any-return]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        gate = self.gate.detach()
        del self.gate  # a leaf in float32 it stays, whatever dtype the model is moved to
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.fresh = fn(self.fresh)
        self.register_buffer("gate", gate.to(fn(gate).device).requires_grad_())
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not self.gate.requires_grad:  # load_state_dict(assign=True) puts the file's tensor in its place
            self.gate = self.gate.detach().float().requires_grad_()


class GatedEmbedding(_Gated, nn.Embedding):
    """`nn.Embedding` whose looked-up rows are multiplied by sigmoid(``gate``); made by `install`."""

    def forward(self, input: Tensor) -> Tensor:
        return self._gated(nn.Embedding.forward(self, input), input)


class GatedEmbeddingBag(_Gated, nn.EmbeddingBag):
    """`nn.EmbeddingBag` whose pooled rows are multiplied by sigmoid(``gate``); made by `install`.

    Gates are positive and the same for every row, so scaling after the pooling (sum, mean, max) is exact.
    """

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return self._gated(nn.EmbeddingBag.forward(self, input, offsets, per_sample_weights), input)


_GATED: dict[type[nn.Module], type[_Gated]] = {nn.Embedding: GatedEmbedding, nn.EmbeddingBag: GatedEmbeddingBag}


@dataclass
class Table:
    """One embedding table and its gate.

    Attributes:
        field: name in reports.
        paths: every module path in the model at which the table is used.
        modules: the distinct modules that look rows up in it (more than one if their weight is tied).
    """

    field: str
    paths: list[str]
    modules: list[Any]

    @property
    def weight(self) -> nn.Parameter:
        """[rows, d]."""
        return self.modules[0].weight  # type: ignore[no-any-return]

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    @property
    def dim_bytes(self) -> int:
        """Bytes of one dimension: rows x element size."""
        return self.rows * self.weight.element_size()

    @property
    def unfit(self) -> str:
        """Why the table cannot be gated, in words; empty if it can."""
        if self.rows == 0:
            return "it has no rows, so there is nothing to prune"
        if any(module.max_norm is not None for module in self.modules):
            return "it has max_norm, which rescales rows by dimensions that the cut takes away; set max_norm=None"
        return ""

    def lookups(self) -> Tensor | None:
        """[rows] float32: how often each row was looked up, by all ranks; None if nothing was counted.

        The padding row counts 0: it is looked up most and never trained.
        """
        total = torch.stack([module.counts for module in self.modules]).sum(0, dtype=torch.float32)
        if self.modules[0].padding_idx is not None:
            total[self.modules[0].padding_idx] = 0
        return total if bool(total.any()) else None

    def merge_lookups(self) -> None:
        """Add the step's lookups of all ranks to ``counts``: the same numbers on every rank, and in a checkpoint."""
        for module in self.modules:
            room = torch.iinfo(module.counts.dtype).max - module.counts
            module.counts += torch.minimum(all_sum_(module.fresh), room)
            module.fresh.zero_()


def find_tables(model: nn.Module, tables: Mapping[str, str] | None = None) -> list[Table]:
    """The embedding tables of ``model``, each once, however many modules or paths share it.

    Args:
        model: anything with `nn.Embedding` or `nn.EmbeddingBag` inside.
        tables: field name -> module path; None: every table with at least two dimensions and a row and without
            ``max_norm``, named by its path.

    Raises:
        ValueError: no table, an unknown path, a table named twice, one without rows or with ``max_norm`` named.
        TypeError: ``model`` is no model, or a named module no embedding or a subclass with a forward of its own.
    """
    cure = "a model, an nn.Module (build it first, and load_state_dict into it where you have a state dict)"
    check_type("model", model, nn.Module, cure)
    found: dict[int, Table] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if type(module) not in _GATED:
            continue
        table = found.setdefault(id(module.weight), Table(path, [], []))
        table.paths.append(path)
        if not any(module is known for known in table.modules):
            table.modules.append(module)
    if tables is None:
        wide = [table for table in found.values() if table.width > 1]
        fit = [table for table in wide if not table.unfit]
        if not fit:
            why = _gated_already(model) or "; ".join(f"{table.field!r}: {table.unfit}" for table in wide)
            raise ValueError(
                f"model={type(model).__name__}: must contain an nn.Embedding or nn.EmbeddingBag with at least two "
                f"dimensions that can be gated; {why or 'it has none, so there is nothing to prune'}"
            )
        return fit
    return _named(model, tables, list(found.values()))


def _named(model: nn.Module, tables: Mapping[str, str], found: list[Table]) -> list[Table]:
    """The tables that the user named, in their order."""
    if not isinstance(tables, Mapping):
        raise TypeError(
            f"tables={tables!r}: must be a dict of field name -> module path, as {{'user': 'emb.user'}}, not a "
            f"{type(tables).__name__}"
        )
    if not tables:
        raise ValueError("tables={}: must name at least one table, or be None for all of them")
    by_path = {path: table for table in found for path in table.paths}
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen: dict[int, Table] = {}
    for field, path in tables.items():
        if path not in modules:
            raise ValueError(
                f"tables[{field!r}]={path!r}: no such module; the model's embeddings are {', '.join(by_path) or 'none'}"
            )
        if path not in by_path:
            raise TypeError(
                f"tables[{field!r}]={path!r}: must be an nn.Embedding or nn.EmbeddingBag, not a "
                f"{type(modules[path]).__name__}; a subclass has a forward of its own, which gates would replace"
            )
        table = by_path[path]
        if table.unfit:
            raise ValueError(f"tables[{field!r}]={path!r}: must be a table that can be gated; {table.unfit}")
        if id(table) in chosen:
            raise ValueError(
                f"tables: fields {chosen[id(table)].field!r} and {field!r} share one table ({path!r}), which has one "
                "gate; name it once"
            )
        chosen[id(table)] = Table(field, table.paths, table.modules)
    return list(chosen.values())


def _gated_already(model: nn.Module) -> str:
    gated = [path for path, module in model.named_modules() if isinstance(module, _Gated)]
    return f"its tables ({', '.join(gated)}) are gated already, by another pruner" if gated else ""


def install(table: Table, logits: Tensor) -> None:
    """Gate ``table`` in place; ``logits`` [d] float32, phi = sigmoid(logits)."""
    for module in table.modules:
        device = module.weight.device
        module.__class__ = _GATED[type(module)]
        module.register_buffer("counts", torch.zeros(table.rows, dtype=torch.int32, device=device))
        module.register_buffer("gate", logits.detach().clone().to(device).requires_grad_())
        module.fresh = torch.zeros(table.rows, dtype=torch.int32, device=device)
        module.counting = False


def remove(table: Table) -> None:
    """Undo `install`: the plain modules again, ungated."""
    for module in table.modules:
        module.__class__ = nn.Embedding if isinstance(module, GatedEmbedding) else nn.EmbeddingBag
        del module.gate, module.counts, module.fresh, module.counting
