"""Reading data files for ``tamis check``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tamis.cli.errors import UsageError, listed
from tamis.policy import DataInfo, fingerprint

__all__ = ["describe_file"]


def describe_file(path: Path, label: str | None) -> DataInfo:
    """What a file says of its data: the size, and where they can be had class names and fingerprint.

    Args:
        path: a .csv, .parquet or (without ``label``) .npy file.
        label: the column whose distinct values, sorted, are the class names.

    Raises:
        UsageError: it cannot be read, or has no such column.
    """
    try:
        if path.suffix == ".npy" and label is None:
            return _read_array(path)
        if path.suffix == ".csv":
            n, values = _read_csv(path, label)
        elif path.suffix == ".parquet":
            n, values = _read_parquet(path, label)
        else:
            raise UsageError(f"--data {path}: must end in .csv, .parquet or (without --label) .npy")
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"--data {path}: cannot be read ({error})") from error
    return DataInfo(n=n, classes=tuple(sorted(values)))


def _read_array(path: Path) -> DataInfo:
    array = np.load(path, allow_pickle=False, mmap_mode="r")
    return DataInfo(n=len(array), fingerprint=fingerprint(array))


def _read_csv(path: Path, label: str | None) -> tuple[int, set[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        column = header.index(_known(label, header)) if label is not None else None
        n, values = 0, set()
        for row in rows:
            n += 1
            if column is not None:
                values.add(row[column] if column < len(row) else "")
    return n, values


def _read_parquet(path: Path, label: str | None) -> tuple[int, set[str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(f"--data {path}: reading parquet needs pyarrow; pip install 'tamis[demo]'") from error
    file = parquet.ParquetFile(path)
    values: set[str] = set()
    if label is not None:
        column = file.read(columns=[_known(label, file.schema_arrow.names)]).column(0)
        values = {str(value) for value in column.unique().to_pylist()}
    return file.metadata.num_rows, values


def _known(label: str, names: Sequence[str]) -> str:
    if label not in names:
        raise UsageError(f"--label {label}: no such column; the table has {listed(names)}")
    return label
