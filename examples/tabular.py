"""A table with a binary label as categorical fields: what the demo and the DimReg examples train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

MOSTLY = 0.9  # a field with more of its training rows at id 0 than this is named
MIN_COUNT = 2  # a value seen less often in training has no row of its own (id 0)


class Table(torch.utils.data.Dataset):
    """Ids [B, m] and labels [B] of one split; fetched a batch at a time."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"features": self.features[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"features": self.features[indices], "labels": self.labels[indices]}


def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`Table` hands out whole batches already."""
    return batch


def load_table(path: str | Path, label: str, seed: int = 0) -> tuple[Table, Table, dict[str, int]]:
    """Read a parquet or csv file; every column but ``label`` and ``split`` becomes a categorical field.

    Values seen at least twice in the training rows get an id; everything else, missing values too, is id 0.

    Args:
        path: the file. A column ``split`` with values train and test is used if there is one; otherwise a fifth of
            the rows, drawn with ``seed``, is the test set.
        label: name of the label column, with exactly two values; the larger one is the positive class.
        seed: of the split.

    Returns:
        Training rows, test rows, and the number of ids per field.

    Raises:
        SystemExit: the file, the label column or its values cannot be used; the message says why.
    """
    path = Path(path)
    frame = _read(path)
    if label not in frame:
        raise SystemExit(f"--label {label}: no such column; {path.name} has {', '.join(map(str, frame.columns))}")
    labels = _labels(frame[label], label)
    if "split" in frame and set(frame["split"]) == {"train", "test"}:
        is_test = (frame["split"] == "test").to_numpy()
    else:
        is_test = np.random.default_rng(seed).random(len(frame)) < 0.2
    for part, rows in (("training", ~is_test), ("test", is_test)):
        if len(np.unique(labels[rows])) < 2:
            raise SystemExit(f"{path.name}: its {rows.sum()} {part} rows must hold both labels; give more rows")
    fields = [str(name) for name in frame.columns if name not in (label, "split")]
    if not fields:
        raise SystemExit(f"{path.name}: must have at least one column besides the label")
    columns, sizes = [], {}
    for field in fields:
        counts = frame.loc[~is_test, field].value_counts()
        known = {value: i + 1 for i, value in enumerate(counts[counts >= MIN_COUNT].index)}
        ids = frame[field].map(known).fillna(0).to_numpy(dtype=np.int64)
        if (share := float((ids[~is_test] == 0).mean())) > MOSTLY:
            print(f"note: {field}: {share:.0%} of the training rows have no value that comes twice; bin or drop it")
        columns.append(ids)
        sizes[field.replace(".", "_")] = len(known) + 1
    features, target, test = torch.tensor(np.stack(columns, axis=1)), torch.tensor(labels), torch.tensor(is_test)
    return Table(features[~test], target[~test]), Table(features[test], target[test]), sizes


def _read(path: Path) -> pd.DataFrame:
    """The file's rows, at least one."""
    if not path.is_file() or path.suffix not in (".parquet", ".csv"):
        raise SystemExit(f"--data {path}: must be an existing .parquet or .csv file")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own errors derive from these
        raise SystemExit(f"--data {path}: cannot be read ({error})") from error
    if frame.empty:
        raise SystemExit(f"--data {path}: must have rows, got none")
    return frame


def _labels(column: pd.Series, name: str) -> np.ndarray:
    """0 and 1 as float32 [n]; 1 stands for the larger of the column's two values."""
    values = sorted(column.dropna().unique().tolist(), key=lambda value: (isinstance(value, str), value))
    if column.isna().any():
        raise SystemExit(f"--label {name}: {int(column.isna().sum())} of {len(column)} labels are missing; drop them")
    if len(values) != 2:
        shown = ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
        raise SystemExit(f"--label {name}: must have exactly two values, got {len(values)}: {shown}")
    return (column == values[1]).to_numpy(dtype=np.float32)
