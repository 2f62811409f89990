"""`PruningPlan`: what remains of which tables, and in which form; a policy, and a label on the model.

The plan travels in two ways: as a policy artefact of its own (`save`, `load_policy`), and inside the cut model, in
a buffer of bytes called ``tamis_plan``, so that whatever saves the model's weights saves the plan with them
(`embedded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tamis.core.checks import check_choice, check_int
from tamis.core.errors import PolicyError
from tamis.core.types import Figure
from tamis.policy.base import Policy, register_policy
from tamis.pruners.gates import GatedEmbedding, GatedEmbeddingBag
from tamis.pruners.selection import Part, Selection, check_index, rows_by_number, union_of_columns
from tamis.pruners.surgery import embedded
from tamis.pruners.surgery.blocks import index_bytes
from tamis.pruners.surgery.narrow import embedding_modules
from tamis.pruners.surgery.packing import check_stored
from tamis.pruners.surgery.perform import finish, narrow_tables
from tamis.pruners.surgery.quantized import Quantized
from tamis.pruners.surgery.store import store_tables, stored_bytes
from tamis.pruners.surgery.torchrec import as_objects, table_configs

__all__ = ["BUFFER", "FORMS", "PruningPlan", "TableCut", "selection_fields"]

BUFFER = "tamis_plan"
FORMS = ("whole", "columns", "scatter", "project", "blocks", "values")


@dataclass(frozen=True, kw_only=True)
class TableCut:
    """One table before the cut, and how it was cut.

    Attributes:
        rows: number of ids.
        dim: width before.
        itemsize: bytes of one number.
        form: ``whole`` (nothing cut), ``columns`` (narrow; the linear layers behind it lost the inputs), ``scatter``
            (narrow inside, zeros put back on the way out), ``project`` (as scatter, by a trainable matrix),
            ``blocks`` (blocks of rows with columns of their own, zeros put back) or ``values`` (single values in the
            CSR form, zeros put back).
        tied: paths of further embedding modules that share the table and were cut with it.
    """

    rows: int
    dim: int
    itemsize: int
    form: str
    tied: tuple[str, ...] = ()


@register_policy("pruning_plan")
@dataclass(frozen=True, kw_only=True)
class PruningPlan(Policy):
    """What `cut` did to a model, enough to do it again to another model of the same shape.

    Attributes:
        tables: module path -> the table before the cut and its form.
        kept: module path -> [k] int64, sorted: the columns of which anything is left.
        consumers: path of a linear layer that lost inputs -> its ``in_features`` before.
        columns: path of such a layer -> [k] int64, sorted: the inputs that are left.
        parts: path of a table of form ``blocks`` -> [n] int16, or int32 beyond 32,768 parts: the part of
            each row, -1 for none.
        part_columns: path of such a table -> bool [P, d]: the columns that each part keeps.
        masks: path of a table of form ``values`` -> bool [n, d]: the values that are left.
        stored: path of a quantised table -> ``int8``, ``int4`` or ``int2``; the others keep their float type.
    """

    schema: ClassVar[int] = 3  # 1 knew columns only, 2 no quantised tables

    tables: dict[str, TableCut]
    kept: dict[str, Tensor]
    consumers: dict[str, int]
    columns: dict[str, Tensor]
    parts: dict[str, Tensor] = field(default_factory=dict)
    part_columns: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, sizes, indices in (
            ("kept", {path: table.dim for path, table in self.tables.items()}, self.kept),
            ("columns", self.consumers, self.columns),
        ):
            if sizes.keys() != indices.keys():
                raise ValueError(f"{name}: must have an entry for each of {sorted(sizes)}, got {sorted(indices)}")
            for path, index in indices.items():
                check_index(f"{name}[{path!r}]", index, sizes[path])
        for path, table in self.tables.items():
            check_choice(f"tables[{path!r}].form", table.form, FORMS)
            for attribute in ("rows", "dim", "itemsize"):
                check_int(f"tables[{path!r}].{attribute}", getattr(table, attribute), low=1)
        for name, form in (("parts", "blocks"), ("part_columns", "blocks"), ("masks", "values")):
            wanted = {path for path, table in self.tables.items() if table.form == form}
            if getattr(self, name).keys() != wanted:
                found = sorted(getattr(self, name))
                raise ValueError(
                    f"{name}: must have an entry for each table of form {form!r}, {sorted(wanted)}, got {found}"
                )
        for path, stored in self.stored.items():
            check_stored(f"stored[{path!r}]", stored)
            check_choice("stored", path, tuple(self.tables))
        for path in (*self.parts, *self.masks):
            table = self.tables[path]
            if path in self.parts:
                _check_parts(path, self.parts[path], self.part_columns[path], table)
            self.selection(path).check(f"selection({path!r})", table.rows, table.dim)

    @classmethod
    def migrate(
        cls, spec: dict[str, Any], tensors: dict[str, Tensor], schema: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Schema 1 had no blocks and values, schemas 1 and 2 no quantised tables.

        Args:
            spec: the JSON values.
            tensors: by field and path.
            schema: of the file.
        """
        if schema not in (1, 2):
            return super().migrate(spec, tensors, schema)
        return {**spec, "stored": {}}, tensors

    def selection(self, path: str) -> Selection:
        """What remains of the table at ``path``."""
        if path in self.masks:
            return Selection(mask=self.masks[path])
        if path in self.parts:
            part, columns = self.parts[path], self.part_columns[path]
            groups = rows_by_number(part, len(columns))
            return Selection(
                parts=tuple(Part(rows, kept.nonzero()[:, 0]) for rows, kept in zip(groups, columns, strict=True))
            )
        return Selection.columns(self.kept[path])

    # ---- figures

    def bytes_before(self, path: str) -> int:
        """Bytes of a table before the cut."""
        table = self.tables[path]
        return table.rows * table.dim * table.itemsize

    def bytes_pruned(self, path: str) -> int:
        """Bytes of a table after the cut and before it was quantised, with what `bytes_after` counts."""
        table, selection = self.tables[path], self.selection(path)
        return selection.values(table.rows) * table.itemsize + self._extra_bytes(path)

    def bytes_after(self, path: str) -> int:
        """Bytes of a table as it is stored, with its projection matrix or the index of its blocks or values.

        The scales and biases of a quantised table are counted. The plan itself is not: `plan_bytes`.
        """
        if path not in self.stored:
            return self.bytes_pruned(path)
        return stored_bytes(self.selection(path), self.tables[path].rows, self.stored[path]) + self._extra_bytes(path)

    def _extra_bytes(self, path: str) -> int:
        """Bytes of what a cut table has beside its numbers."""
        table = self.tables[path]
        matrix = table.dim * len(self.kept[path]) * table.itemsize if table.form == "project" else 0
        return index_bytes(self.selection(path), table.rows, table.dim) + matrix

    @property
    def plan_bytes(self) -> int:
        """Bytes that the plan takes in the model's weights (the buffer ``tamis_plan``); in no other figure."""
        return len(self._raw())

    @property
    def keep_share(self) -> float:
        """Share of (table, dimension) pairs that are left, in [0, 1]; one that some rows keep counts in part."""
        left = sum(self.selection(path).values(table.rows) / table.rows for path, table in self.tables.items())
        return left / sum(table.dim for table in self.tables.values())

    @property
    def byte_share(self) -> float:
        """Share of the tables' bytes that are left, as they are stored; what `bytes_after` counts."""
        return sum(map(self.bytes_after, self.tables)) / sum(map(self.bytes_before, self.tables))

    def summary(self) -> str:
        """A table: field, kept dimensions, form, bytes before and after."""
        width = max(len(path) for path in (*self.tables, "total"))
        head = f"{'table':{width}}  {'kept':>11}  {'form':8}  {'bytes before':>14}  {'bytes after':>14}"
        lines = [head + ("  stored" if self.stored else "")]
        before = after = 0
        for path, table in self.tables.items():
            old, new = self.bytes_before(path), self.bytes_after(path)
            stored = f"  {self.stored.get(path, 'float')}" if self.stored else ""
            lines.append(f"{path:{width}}  {self.kept_words(path):>11}  {table.form:8}  {old:14,}  {new:14,}{stored}")
            before, after = before + old, after + new
        lines.append(f"{'total':{width}}  {self.keep_share:>10.1%}   {'':8} {before:14,}  {after:14,}")
        for path, inputs in self.consumers.items():
            lines.append(f"{path}: {len(self.columns[path])} of {inputs} inputs left")
        lines.append(f"not counted: the plan inside the model, {self.plan_bytes:,} bytes")
        return "\n".join(lines)

    def kept_words(self, path: str) -> str:
        """``3/8`` dimensions, or ``2.4/8`` if the rows keep 2.4 on average."""
        table = self.tables[path]
        mean = self.selection(path).values(table.rows) / table.rows
        return f"{mean:g}/{table.dim}" if mean == int(mean) else f"{mean:.1f}/{table.dim}"

    def to_torchrec(self, *, objects: bool = False) -> dict[str, Any]:
        """The tables that are left as TorchRec describes them, by module path.

        The keys are the arguments of ``torchrec.EmbeddingBagConfig``; ``embedding_dim`` is the number of columns that
        are left, ``data_type`` one of FP32, FP16, INT8, INT4, INT2, and names have ``_`` for a dot. A table without
        columns is left out. fbgemm's kernels want widths that are multiples of 4.

        Args:
            objects: make the config objects themselves.

        Raises:
            PolicyError: a table keeps blocks or single values, or has 8-byte numbers.
            ImportError: ``objects``, and torchrec does not load.
        """
        configs = table_configs(self)
        return as_objects(configs) if objects else configs

    def draw(self, figure: Figure) -> None:
        """Bars: kept dimensions per table (the mean over its rows), before it the full width in grey."""
        drawn: Any = figure
        axes = drawn.subplots()
        names, places = list(self.tables), range(len(self.tables))
        left = [self.selection(path).values(table.rows) / table.rows for path, table in self.tables.items()]
        axes.barh(places, [table.dim for table in self.tables.values()], color="0.9", label="before")
        axes.barh(places, left, color="C0", label="kept")
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set(xlabel="dimensions", title=f"kept dimensions per table ({self.keep_share:.1%} in all)")
        axes.legend()

    # ---- models

    def check(
        self, subject: object = None, /, *, data: object = None, model: nn.Module | None = None
    ) -> tuple[str, ...]:
        """Compare the plan with an unpruned ``model``, or its search's data with ``data``.

        Args:
            subject: the old, positional spelling of ``model``.
            data: as `Policy.check`.
            model: of the shape that the plan was made for.

        Returns:
            Of a model the paths that were compared: all tables and linear layers of the plan.

        Raises:
            PolicyError: the first one that is missing or has another shape; the message holds both shapes.
            TypeError: nothing to check was given, or ``model`` is no `nn.Module`.
        """
        if data is not None:
            return super().check(data=data)
        given = self._keyword("model", subject, model)
        if not isinstance(given, nn.Module):
            raise TypeError(f"model: must be an nn.Module, got {type(given).__name__}")
        model = given
        found = embedding_modules(model)
        for path, table in self.tables.items():
            for alias in (path, *table.tied):
                if alias not in found:
                    known = ", ".join(found) or "none"
                    raise PolicyError(
                        f"PruningPlan: the model has no embedding {alias!r} (it has {known}); the plan was made for "
                        f"a table of shape {[table.rows, table.dim]} there. It fits the UNPRUNED model it was made for"
                    )
                if isinstance(found[alias], (GatedEmbedding, GatedEmbeddingBag)):
                    raise PolicyError(
                        f"PruningPlan: the model's table {alias!r} is still gated by a pruner; take a fresh, unpruned "
                        "model without one (a gated model is cut by its own pruner.prune())"
                    )
                if isinstance(found[alias], Quantized):
                    raise PolicyError(
                        f"PruningPlan: the model's table {alias!r} is stored as {found[alias].stored}; take a fresh, "
                        "unpruned model of float tables"
                    )
                if not hasattr(found[alias], "weight"):
                    raise PolicyError(f"PruningPlan: the model's table {alias!r} is cut already; take a fresh model")
                _same_shape(alias, list(found[alias].weight.shape), [table.rows, table.dim])
        modules = dict(model.named_modules())
        for path, inputs in self.consumers.items():
            linear = modules.get(path)
            if not isinstance(linear, nn.Linear):
                raise PolicyError(f"PruningPlan: the model has no nn.Linear {path!r}, which the plan cuts")
            _same_shape(path, [linear.out_features, linear.in_features], [linear.out_features, inputs])
        return (*self.tables, *self.consumers)

    def apply(self, model: nn.Module) -> None:
        """Cut an unpruned ``model`` of the same shape the same way, in place; its weights stay its own.

        Raises:
            PolicyError: the model is not of that shape; nothing is changed.
        """
        self.check(model=model)
        every: dict[str, list[Any]] = {
            path: [model.get_submodule(name) for name in (path, *table.tied)] for path, table in self.tables.items()
        }
        groups = {path: modules for path, modules in every.items() if self.tables[path].form != "whole"}
        narrow_tables(model, groups, {path: self.selection(path) for path in groups})
        finish(model, groups, {path: self.tables[path].form for path in groups}, self.columns)
        store_tables(model, every, self.stored)
        self.write_into(model)

    def write_into(self, model: nn.Module) -> None:
        """Put the plan into ``model`` as a buffer of bytes, which is saved with its weights."""
        device = next((p.device for p in model.parameters()), None)
        model.register_buffer(BUFFER, self._raw().to(device))

    def _raw(self) -> Tensor:
        spec = {name: getattr(self, name) for name in self._spec_hints()}
        return embedded.to_bytes(self.schema, spec, self._spec_hints(), self._indices())

    def _indices(self) -> dict[str, Mapping[str, Tensor]]:
        return {name: getattr(self, name) for name in ("kept", "columns", "parts", "part_columns", "masks")}

    @classmethod
    def read_from(cls, buffer: Tensor) -> PruningPlan:
        """The plan that `write_into` put into a buffer, by this release or an earlier one.

        Raises:
            PolicyError: the bytes are not a plan.
        """
        try:
            return cls(**embedded.from_bytes(buffer, cls.schema, cls._spec_hints()))
        except Exception as error:  # bytes from a file: they can be wrong in any way
            raise PolicyError(f"{BUFFER}: the model's pruning plan cannot be read ({error})") from error


def selection_fields(
    selections: Mapping[str, Selection], tables: Mapping[str, TableCut]
) -> dict[str, dict[str, Tensor]]:
    """The fields of a `PruningPlan` that hold these selections.

    Args:
        selections: module path -> what remains.
        tables: module path -> the table.

    Returns:
        ``kept``, ``parts``, ``part_columns`` and ``masks``.
    """
    fields: dict[str, dict[str, Tensor]] = {"kept": {}, "parts": {}, "part_columns": {}, "masks": {}}
    for path, selection in selections.items():
        table = tables[path]
        fields["kept"][path] = _touched(selection)
        if table.form == "values" and selection.mask is not None:
            fields["masks"][path] = selection.mask.detach().cpu()
        elif table.form == "blocks":
            kind = torch.int16 if len(selection.parts) <= 2**15 else torch.int32
            part = torch.full((table.rows,), -1, dtype=kind)
            columns = torch.zeros(len(selection.parts), table.dim, dtype=torch.bool)
            for number, (rows, kept) in enumerate(selection.parts):
                part[slice(None) if rows is None else rows] = number
                columns[number, kept] = True
            fields["parts"][path], fields["part_columns"][path] = part, columns
    return fields


def _touched(selection: Selection) -> Tensor:
    if selection.mask is not None:
        return selection.mask.any(0).nonzero()[:, 0].cpu()
    return union_of_columns(selection.parts)


def _check_parts(path: str, part: Tensor, columns: Tensor, table: TableCut) -> None:
    if part.dtype not in (torch.int16, torch.int32) or list(part.shape) != [table.rows]:
        raise ValueError(
            f"parts[{path!r}]: must be int16 or int32 of shape {[table.rows]}, got {part.dtype} {list(part.shape)}"
        )
    if columns.dtype != torch.bool or columns.dim() != 2 or columns.shape[1] != table.dim:
        shape = list(columns.shape)
        raise ValueError(f"part_columns[{path!r}]: must be bool [P, {table.dim}], got {columns.dtype} {shape}")
    if len(part) and not -1 <= int(part.min()) <= int(part.max()) < len(columns):
        raise ValueError(f"parts[{path!r}]: must lie in [-1, {len(columns)}), the number of its parts")


def _same_shape(path: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    if list(found) != list(wanted):
        raise PolicyError(
            f"PruningPlan: {path!r} has shape {list(found)} in this model, {list(wanted)} in the one the plan was made "
            "for; the plan fits the UNPRUNED model it was made for"
        )
