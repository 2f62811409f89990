"""`FeatureTable`: named numbers of each sample of a data set, whoever measures them and whoever uses them.

features = sample_features(model, train)           # measured by a model: loss, entropy, gradient
features["loss"]                                   # float [n]
features = features.with_columns({"age": ages})    # your own beside them
features.save("features.safetensors")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast
from warnings import warn

import torch
from torch import Tensor

from tamis.core.files import write_tensors
from tamis.core.types import ArrayLike, MapDataset, PathOrStr
from tamis.features.columns import Columns, TableLike, fingerprint_columns
from tamis.features.data import fingerprint_dataset
from tamis.policy.base import fingerprint

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["FeatureTable"]

Values: TypeAlias = "ArrayLike | Sequence[Sequence[float]]"

_FORMAT = "tamis.feature_table"


class FeatureTable:
    """Named columns of numbers, one row a sample, in the order of the data set. It does not change once made.

    A column stands alone (``"loss"``) or in a group of columns that belong together, such as the statistics of one
    text; the full name of a column in a group is ``"GROUP.COLUMN"``.

    Args:
        columns: name -> numbers [n], a column, or [n, width], a group; all finite, n >= 1. float32 and float64 columns
            keep their dtype, all else becomes float32.
        layout: group -> the names of its columns; default: the group's own name for one, "0", "1", ... for more.
        fingerprint: of the data that the numbers were taken from, "" if it is not known; `check` compares it.

    Attributes:
        layout: name -> the names of its columns, in order; a column that stands alone has its own.
        fingerprint: as given.

    Raises:
        TypeError: values that are no numbers.
        ValueError: no column, sizes that differ, a value that is not finite (the message names the sample).
    """

    def __init__(
        self,
        columns: Mapping[str, Values],
        layout: Mapping[str, Sequence[str]] | None = None,
        *,
        fingerprint: str = "",
    ) -> None:
        if not isinstance(columns, Mapping) or not columns:
            got = "{}" if isinstance(columns, Mapping) else type(columns).__name__
            raise ValueError(f"columns={got}: must be a dict of at least one feature, e.g. {{'loss': losses}}")
        known = dict(layout or {})
        if unknown := sorted(known.keys() - columns.keys()):
            raise ValueError(f"layout: names {', '.join(unknown)}, which columns does not hold")
        self._values = {name: _numbers(name, values) for name, values in columns.items()}
        self.layout = {name: tuple(known.get(name) or _default_names(name, v)) for name, v in self._values.items()}
        self.fingerprint = fingerprint
        for name in self._values:
            self._check_values(name)

    def __len__(self) -> int:
        return len(next(iter(self._values.values())))

    def __repr__(self) -> str:
        shown = [n if v.ndim == 1 else f"{n}[{v.shape[1]}]" for n, v in self._values.items()]
        return f"FeatureTable({len(self)} samples: {', '.join(shown)})"

    def __contains__(self, name: object) -> bool:
        return name in self._places()

    def __getitem__(self, name: str) -> Tensor:
        """One column by its full name (a group of one column also by the group's): float [n].

        Raises:
            KeyError: there is no such column; the message lists them.
        """
        places = self._places()
        if name not in places:
            raise KeyError(f"{name}: not among the features {', '.join(self.column_names)}")
        group, at = places[name]
        values = self._values[group]
        return values if values.ndim == 1 else values[:, at]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The full names of all columns, in order."""
        return tuple(full for name in self._values for full in self._full_names(name))

    @property
    def groups(self) -> dict[str, Tensor]:
        """Name -> float [n, width]; a column that stands alone is a group of one."""
        return {name: values if values.ndim == 2 else values[:, None] for name, values in self._values.items()}

    def column(self, group: str, name: str) -> Tensor:
        """One column of a group: float [n].

        Args:
            group: the group's name.
            name: the column's name within the group.

        Raises:
            KeyError: there is no such group or column.
        """
        if group not in self._values or name not in self.layout[group]:
            raise KeyError(f"{group}.{name}: not among the features {', '.join(self.column_names)}")
        return self.groups[group][:, self.layout[group].index(name)]

    def matrix(self, start: int = 0, stop: int | None = None) -> Tensor:
        """All columns side by side: float32 [rows, D].

        Args:
            start: the first row.
            stop: the row after the last one; default: all.
        """
        return torch.cat([values[start:stop].float() for values in self.groups.values()], 1)

    def select_columns(self, names: Sequence[str]) -> FeatureTable:
        """A table of these groups and single columns only, in this order.

        Args:
            names: of groups or single columns, in the wanted order.

        Raises:
            KeyError: there is no such group or column.
        """
        columns: dict[str, Tensor] = {
            name: self._values[name] if name in self._values else self[name] for name in names
        }
        layout = {name: self.layout[name] for name in names if name in self._values}
        return FeatureTable(columns, layout, fingerprint=self.fingerprint)

    def with_columns(self, columns: Mapping[str, Values]) -> FeatureTable:
        """A copy with these columns (numbers [n]) or groups (numbers [n, width]) added, or put in place of old ones.

        Args:
            columns: name -> numbers [n] or [n, width].
        """
        layout = {name: names for name, names in self.layout.items() if name not in columns}
        return FeatureTable({**self._values, **columns}, layout, fingerprint=self.fingerprint)

    def with_group(self, name: str, values: Values, columns: Sequence[str] = ()) -> FeatureTable:
        """A copy with one more, or another, group.

        Args:
            name: the group's name.
            values: numbers [n] or [n, width].
            columns: the names of its columns; default: ``name`` for one, "0", "1", ... for more.
        """
        tensor = torch.as_tensor(values).float()
        tensor = tensor[:, None] if tensor.ndim == 1 else tensor
        layout = {key: names for key, names in self.layout.items() if key != name}
        layout |= {name: tuple(columns)} if columns else {}
        return FeatureTable({**self._values, name: tensor}, layout, fingerprint=self.fingerprint)

    def check(self, data: MapDataset | TableLike, text: Sequence[str] | None = None) -> None:
        """Refuse ``data`` that the features were not taken from.

        Features of text are compared by all of the text. Features measured by a model are compared by all labels in
        order, and by the inputs of 16 evenly spaced samples, read with the global generators seeded, so that most
        random augmentations repeat. Inputs that differ between two such readings, or have no bytes to compare (other
        than tensors, arrays, PIL images, numbers, text and collections of these), are left out.

        Args:
            data: what was given to `sample_features` or `curriculum_features`.
            text: columns of ``data`` that the features were taken of; default: the columns of the group ``length``.

        Raises:
            ValueError: another size, other text, labels, inputs or order.
        """
        if text is None and "length" in self._values and self._values["length"].ndim == 2:
            text = self.layout["length"]
        size = len(data) if text is None else len(Columns(data))
        if size != len(self):
            raise ValueError(f"data: has {size} samples, the features {len(self)}: take its own features")
        if text is not None:
            read = Columns(data)
            if fingerprint_columns([read[name] for name in text]) != self.fingerprint:
                raise ValueError(f"data: the columns {', '.join(text)} are not those of the features; take its own")
        elif self.fingerprint != (got := fingerprint_dataset(cast(MapDataset, data))):
            raise ValueError(
                f"fingerprint={self.fingerprint[:19]!r}: the features are of another data set than this one "
                f"({got[:19]}.., other labels, inputs, transform or order); run sample_features on it"
            )

    def digest(self) -> str:
        """sha256 over all names and values, the same as in release 0.1."""
        if "gradient" in self._values and all(values.ndim == 1 for values in self._values.values()):
            columns = {name: values for name, values in self._values.items() if name != "gradient"}
            return fingerprint(self.fingerprint, list(columns), list(columns.values()), self._values["gradient"])
        return fingerprint(self.fingerprint, {name: list(names) for name, names in self.layout.items()}, self._values)

    def add_to(self, dataset: Dataset) -> Dataset:
        """A `datasets.Dataset` with one more column per feature, under its full name.

        Args:
            dataset: a `datasets.Dataset` of as many rows.
        """
        for name in self.column_names:
            dataset = dataset.add_column(name, self[name].numpy())
        return dataset

    def save(self, path: PathOrStr) -> None:
        """Write one safetensors file, whole or not at all.

        Args:
            path: of the file, replaced if it is there.
        """
        meta = {"format": _FORMAT, "fingerprint": self.fingerprint, "layout": json.dumps(self.layout)}
        write_tensors(path, self._values, meta)

    @classmethod
    def load(cls, path: PathOrStr, dataset: MapDataset | TableLike | None = None) -> FeatureTable:
        """Read what `save` wrote, also that of release 0.1.

        Args:
            path: the file.
            dataset: if given, features of other data are refused (`check`).

        Raises:
            ValueError: another kind of file, features of other data.
        """
        table = _read(path)
        if dataset is not None:
            table.check(dataset)
        return table

    @property
    def columns(self) -> dict[str, Tensor] | dict[str, tuple[str, ...]]:
        """Deprecated: what `SampleFeatures.columns` (tensors) and `CurriculumFeatures.columns` (names) were."""
        warn(
            "features.columns is deprecated: features['loss'] is a column, features.column_names are all names, "
            "features.layout the names in each group",
            FutureWarning,
            stacklevel=2,
        )
        if all(values.ndim == 1 for values in self._values.values()):
            return {name: values for name, values in self._values.items() if name != "gradient"}
        return dict(self.layout)

    @property
    def gradient(self) -> Tensor:
        """Deprecated: the column ``"gradient"``."""
        warn("features.gradient is deprecated: write features['gradient']", FutureWarning, stacklevel=2)
        return self["gradient"]

    def _full_names(self, name: str) -> tuple[str, ...]:
        single = self._values[name].ndim == 1
        return (name,) if single else tuple(f"{name}.{column}" for column in self.layout[name])

    def _places(self) -> dict[str, tuple[str, int]]:
        """Every name that `__getitem__` takes -> group and number of the column in it."""
        places = {name: (name, 0) for name, names in self.layout.items() if len(names) == 1}
        full = {f: (name, at) for name in self._values for at, f in enumerate(self._full_names(name))}
        return places | full

    def _check_values(self, name: str) -> None:
        values, size = self._values[name], len(self)
        if values.ndim not in (1, 2) or len(values) != size or not values.numel():
            raise ValueError(f"{name}: must be 1-D with {size} >= 1 values or 2-D with as many rows, "
                             f"got {list(values.shape)}")  # fmt: skip
        if len(self.layout[name]) != (1 if values.ndim == 1 else values.shape[1]):
            raise ValueError(f"{name}: has {list(values.shape)} values, but {len(self.layout[name])} column names")
        bad = torch.nonzero(~torch.isfinite(values))
        if len(bad):
            row = int(bad[0, 0])
            full = self._full_names(name)[int(bad[0, 1]) if values.ndim == 2 else 0]
            raise ValueError(f"{full}[{row}]={float(values[tuple(bad[0])])}: must be finite; look at sample {row}")


def _numbers(name: str, values: Values) -> Tensor:
    """``values`` as a float tensor on the CPU."""
    try:
        tensor = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}={type(values).__name__}: must be numbers that torch.as_tensor takes") from error
    keeps = tensor.ndim == 1 and tensor.dtype == torch.float64
    return tensor if keeps else tensor.float()


def _default_names(name: str, values: Tensor) -> tuple[str, ...]:
    return (name,) if values.ndim == 1 or values.shape[1] == 1 else tuple(map(str, range(values.shape[1])))


def _read(path: PathOrStr) -> FeatureTable:
    """The table in a file of this release or of 0.1, which had two formats."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        meta = file.metadata() or {}
        kind = meta.get("format")
        if kind == "tamis.features":
            columns = {name: file.get_tensor(f"columns.{name}") for name in json.loads(meta["names"])}
            return FeatureTable({**columns, "gradient": file.get_tensor("gradient")}, fingerprint=meta["fingerprint"])
        if kind not in (_FORMAT, "tamis.curriculum_features"):
            raise ValueError(f"path={str(path)!r}: must be a file that FeatureTable.save wrote, got format {kind!r}")
        layout = json.loads(meta["layout" if kind == _FORMAT else "columns"])
        values = {name: file.get_tensor(name) for name in layout}
        return FeatureTable(values, layout, fingerprint=meta["fingerprint"])
