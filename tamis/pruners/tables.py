"""The embedding tables of a model: found once each, however many modules or paths share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.checks import check_type
from tamis.pruners.lookups import add_counts_

__all__ = ["Table", "find_tables"]

_PLAIN = (nn.Embedding, nn.EmbeddingBag)


@dataclass
class Table:
    """One embedding table.

    Attributes:
        field: name in reports.
        paths: every module path in the model at which the table is used.
        modules: the distinct modules that look rows up in it (more than one if their weight is tied).
    """

    field: str
    paths: list[str]
    modules: list[Any]  # nn.Embedding or nn.EmbeddingBag, or a gated subclass with `counts`, `fresh`, `counting`

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
    def rank(self) -> int:
        """The largest rank that the table can have: its width or, if they are fewer, its rows without the padding."""
        rows = self.rows - (self.modules[0].padding_idx is not None)
        return max(1, min(self.width, rows))

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

    def count_lookups(self, on: bool) -> None:
        """Whether the lookups of the next step are counted."""
        for module in self.modules:
            module.counting = on

    @property
    def is_counting(self) -> bool:
        """Whether the lookups of the step under way are counted."""
        return bool(self.modules[0].counting)

    def lookups(self) -> Tensor | None:
        """[rows] float32: how often each row was looked up, by all ranks; None if nothing was counted.

        The padding row counts 0: it is looked up most and never trained.
        """
        total = torch.stack([module.counts for module in self.modules]).sum(0, dtype=torch.float32)
        if self.modules[0].padding_idx is not None:
            total[self.modules[0].padding_idx] = 0
        return total if bool(total.any()) else None

    def merge_lookups(self) -> None:
        """Add the step's lookups of all ranks to ``counts``: the same numbers on every rank, and in a checkpoint.

        Only the rows that were looked up are touched.
        """
        for module in self.modules:
            add_counts_(module.counts, module.fresh)


def find_tables(model: nn.Module, tables: Mapping[str, str] | None = None) -> list[Table]:
    """The embedding tables of ``model``, each once, however many modules or paths share it.

    Args:
        model: anything with `nn.Embedding` or `nn.EmbeddingBag` inside.
        tables: field name -> module path; None: every table with at least two dimensions and a row and without
            ``max_norm``, named by its path.

    Raises:
        ValueError: no table, an unknown path, a table named twice, one without rows or with ``max_norm`` named.
        TypeError: ``model`` is not an nn.Module, or a named module is not an embedding, or one with its own forward.
    """
    cure = "a model, an nn.Module (build it first, and load_state_dict into it where you have a state dict)"
    check_type("model", model, nn.Module, cure)
    found: dict[int, Table] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if type(module) not in _PLAIN:
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
    gated = [path for path, module in model.named_modules() if hasattr(module, "counts") and hasattr(module, "fresh")]
    return f"its tables ({', '.join(gated)}) are gated already, by another pruner" if gated else ""
