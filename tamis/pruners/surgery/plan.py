"""`PruningPlan`: which columns of which tables were kept, and in which form; a policy, and a label on the model.

The plan travels in two ways: as a policy artefact of its own (`save`, `load_policy`), and inside the cut model, in
a buffer of bytes called ``tamis_plan``, so that whatever saves the model's weights saves the plan with them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.checks import check_choice, check_int
from tamis.core.errors import PolicyError
from tamis.policy.base import Policy, register_policy
from tamis.policy.spec import convert_fields
from tamis.pruners.gates import GatedEmbedding, GatedEmbeddingBag
from tamis.pruners.surgery.narrow import embedding_modules, narrow_table, return_narrow, slice_linear

__all__ = ["BUFFER", "FORMS", "PruningPlan", "TableCut"]

BUFFER = "tamis_plan"
FORMS = ("whole", "columns", "scatter", "project")


@dataclass(frozen=True, kw_only=True)
class TableCut:
    """One table before the cut, and how it was cut.

    Attributes:
        rows: number of ids.
        dim: width before.
        itemsize: bytes of one number.
        form: ``whole`` (nothing cut), ``columns`` (narrow; the linear layers behind it lost the inputs), ``scatter``
            (narrow inside, zeros put back on the way out) or ``project`` (as scatter, by a trainable matrix).
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
        kept: module path -> [k] int64, sorted: the columns that are left.
        consumers: path of a linear layer that lost inputs -> its ``in_features`` before.
        columns: path of such a layer -> [k] int64, sorted: the inputs that are left.
    """

    tables: dict[str, TableCut]
    kept: dict[str, Tensor]
    consumers: dict[str, int]
    columns: dict[str, Tensor]

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

    # ---- figures

    def bytes_before(self, path: str) -> int:
        """Bytes of a table before the cut."""
        table = self.tables[path]
        return table.rows * table.dim * table.itemsize

    def bytes_after(self, path: str) -> int:
        """Bytes of a table after the cut, with its projection matrix if it has one."""
        table = self.tables[path]
        extra = table.dim if table.form == "project" else 0
        return (table.rows + extra) * len(self.kept[path]) * table.itemsize

    @property
    def keep_share(self) -> float:
        """Share of (table, dimension) pairs that are left, in [0, 1]."""
        return sum(len(index) for index in self.kept.values()) / sum(table.dim for table in self.tables.values())

    def summary(self) -> str:
        """A table: field, kept dimensions, form, bytes before and after."""
        width = max(len(path) for path in (*self.tables, "total"))
        lines = [f"{'table':{width}}  {'kept':>11}  {'form':8}  {'bytes before':>14}  {'bytes after':>14}"]
        before = after = 0
        for path, table in self.tables.items():
            kept, old, new = f"{len(self.kept[path])}/{table.dim}", self.bytes_before(path), self.bytes_after(path)
            lines.append(f"{path:{width}}  {kept:>11}  {table.form:8}  {old:14,}  {new:14,}")
            before, after = before + old, after + new
        lines.append(f"{'total':{width}}  {self.keep_share:>10.1%}   {'':8} {before:14,}  {after:14,}")
        for path, inputs in self.consumers.items():
            lines.append(f"{path}: {len(self.columns[path])} of {inputs} inputs left")
        return "\n".join(lines)

    def draw(self, figure: Any) -> None:
        """Bars: kept dimensions per table, before it the full width in grey."""
        axes = figure.subplots()
        names, places = list(self.tables), range(len(self.tables))
        axes.barh(places, [table.dim for table in self.tables.values()], color="0.9", label="before")
        axes.barh(places, [len(self.kept[name]) for name in names], color="C0", label="kept")
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
        for path, table in self.tables.items():
            if table.form == "whole":
                continue
            modules = [model.get_submodule(name) for name in (path, *table.tied)]
            narrow_table(model, modules, self.kept[path])
            finish_form(modules, table.form)
        for path, columns in self.columns.items():
            slice_linear(model.get_submodule(path), columns)
        self.write_into(model)

    def write_into(self, model: nn.Module) -> None:
        """Put the plan into ``model`` as a buffer of bytes, which is saved with its weights."""
        spec = {name: getattr(self, name) for name in self._spec_hints()}
        document = {
            "schema": self.schema,
            "spec": convert_fields(spec, self._spec_hints(), "spec", loading=False),
            "kept": {path: index.tolist() for path, index in self.kept.items()},
            "columns": {path: index.tolist() for path, index in self.columns.items()},
        }
        raw = np.frombuffer(json.dumps(document).encode(), dtype=np.uint8).copy()
        device = next((p.device for p in model.parameters()), None)
        model.register_buffer(BUFFER, torch.from_numpy(raw).to(device))

    @classmethod
    def read_from(cls, buffer: Tensor) -> PruningPlan:
        """The plan that `write_into` put into a buffer.

        Raises:
            PolicyError: the bytes are not a plan.
        """
        try:
            if buffer.dtype != torch.uint8:
                raise TypeError(f"dtype={buffer.dtype}: must be torch.uint8")
            document = json.loads(buffer.cpu().numpy().tobytes())
            if document["schema"] != cls.schema:
                raise ValueError(f"schema={document['schema']}: this release of tamis reads {cls.schema}")
            spec = convert_fields(document["spec"], cls._spec_hints(), "spec", loading=True)
            for name in ("kept", "columns"):
                indices = document[name].items()
                spec[name] = {path: torch.tensor(index, dtype=torch.int64) for path, index in indices}
            return cls(**spec)
        except Exception as error:  # bytes from a file: they can be wrong in any way
            raise PolicyError(f"{BUFFER}: the model's pruning plan cannot be read ({error})") from error


def finish_form(modules: list[Any], form: str) -> None:
    """From the scatter form, in which a table is after `narrow_table`, to its final ``form``."""
    for module in modules:
        if form == "columns":
            return_narrow(module)
        elif form == "project":
            if module is modules[0]:
                module.add_projection()
            module.projection = modules[0].projection


def check_index(name: str, index: Any, size: int) -> None:
    """Refuse an index set that is not an int64 tensor [k], sorted, without repeats, in [0, size).

    Raises:
        TypeError: not an int64 tensor.
        ValueError: its shape, order or range.
    """
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        raise TypeError(f"{name}: must be an int64 tensor, got {getattr(index, 'dtype', type(index).__name__)}")
    if index.dim() != 1 or (index.diff() <= 0).any():
        raise ValueError(f"{name}={index.tolist()}: must be one-dimensional, sorted and without repeats")
    if len(index) and not 0 <= int(index[0]) <= int(index[-1]) < size:
        raise ValueError(f"{name}={index.tolist()}: must lie in [0, {size})")


def _same_shape(path: str, found: list[int], wanted: list[int]) -> None:
    if found != wanted:
        raise PolicyError(
            f"PruningPlan: {path!r} has shape {found} in this model, {wanted} in the one the plan was made for; "
            "the plan fits the UNPRUNED model it was made for"
        )
