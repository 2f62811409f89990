"""Reading tabular data by column: a `datasets.Dataset`, a dict of columns, arrow, pandas, a list of dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from tamis.core.extras import needs
from tamis.policy.base import fingerprint

if TYPE_CHECKING:
    import datasets
    import pandas
    import pyarrow

__all__ = ["Column", "Columns", "TableLike", "fingerprint_columns"]

#: Samples as rows of named columns.
TableLike: TypeAlias = Union[
    Mapping[str, Sequence[Any]],
    Sequence[Mapping[str, Any]],
    "pyarrow.Table",
    "pandas.DataFrame",
    "datasets.Dataset",
]
#: Strings, numbers, or rows of strings or numbers, one a sample.
Column: TypeAlias = Union[Sequence[Any], np.ndarray, "pyarrow.Array", "pyarrow.ChunkedArray"]


class Columns:
    """Columns of any tabular ``data`` by name."""

    def __init__(self, data: TableLike) -> None:
        self.data: Any = data

    def __len__(self) -> int:
        return len(next(iter(self.data.values()))) if isinstance(self.data, dict) else len(self.data)

    def __getitem__(self, name: str) -> Column:
        """One column.

        Raises:
            KeyError: there is no such column.
        """
        names = self.names()
        if name not in names:
            raise KeyError(f"column {name!r}: not among {', '.join(names)}")
        if hasattr(self.data, "with_format"):  # datasets: arrow, in the order that select and shuffle gave it
            return self.data.select_columns([name]).with_format("arrow")[:].column(name)
        if isinstance(self.data, (list, tuple)):
            return [row[name] for row in self.data]
        return self.data[name]

    def names(self) -> list[str]:
        """The names of all columns."""
        if hasattr(self.data, "column_names"):
            return list(self.data.column_names)
        if isinstance(self.data, (list, tuple)):
            return list(self.data[0]) if self.data else []
        return [str(name) for name in self.data]

    def rows(self, low: int, high: int) -> dict[str, list[Any]]:
        """Rows ``low`` to ``high`` as lists by column name.

        Args:
            low: the first row.
            high: the row after the last one.
        """
        if isinstance(self.data, (list, tuple)):
            return {name: [row[name] for row in self.data[low:high]] for name in self.names()}
        if hasattr(self.data, "with_format"):
            return dict(self.data[low:high])
        return {name: list(self.data[name][low:high]) for name in self.names()}


def fingerprint_columns(columns: Sequence[Column]) -> str:
    """sha256 over text columns; "" for none.

    Args:
        columns: of one size; strings, numbers or token ids.
    """
    return fingerprint(*[fingerprint(*_bytes_of(column)) for column in columns]) if columns else ""


def _bytes_of(column: Column) -> list[np.ndarray]:
    """A text column as arrays, for `fingerprint`: the same for equal values, whatever holds them."""
    with needs("text", "text columns"):
        import pyarrow as pa
        import pyarrow.compute as pc

    if isinstance(column, np.ndarray) and column.ndim == 2:
        column = list(column)
    array = column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if hasattr(array.type, "value_type"):
        return [
            pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64),
            *_bytes_of(array.flatten()),
        ]
    if not pa.types.is_string(array.type) and not pa.types.is_large_string(array.type):
        return [array.to_numpy(zero_copy_only=False)]
    text = array.cast(pa.large_string())
    text = pa.concat_arrays([text.slice(0, 0), text])  # offsets begin at 0 whatever was sliced before
    _, offsets, data = text.buffers()
    places = np.frombuffer(offsets, np.int64)[: len(text) + 1]
    return [places, np.frombuffer(data, np.uint8)[: places[-1]] if data is not None else np.empty(0, np.uint8)]
