"""A table with a binary label as categorical fields: what the demo and the DimReg examples train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

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
    if not path.is_file() or path.suffix not in (".parquet", ".csv"):
        raise SystemExit(f"--data {path}: must be an existing .parquet or .csv file")
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    if label not in frame:
        raise SystemExit(f"--label {label}: no such column; {path.name} has {', '.join(map(str, frame.columns))}")
    values = sorted(frame[label].dropna().unique())
    if len(values) != 2 or frame[label].isna().any():
        raise SystemExit(f"--label {label}: must have exactly two values and none missing, got {values[:5]}")
    labels = torch.tensor((frame[label] == values[1]).to_numpy(dtype=np.float32))
    if "split" in frame and set(frame["split"]) == {"train", "test"}:
        is_test = (frame["split"] == "test").to_numpy()
    else:
        is_test = np.random.default_rng(seed).random(len(frame)) < 0.2
    fields = [str(name) for name in frame.columns if name not in (label, "split")]
    if not fields:
        raise SystemExit(f"{path.name}: must have at least one column besides the label")
    columns, sizes = [], {}
    for field in fields:
        counts = frame.loc[~is_test, field].value_counts()
        known = {value: i + 1 for i, value in enumerate(counts[counts >= MIN_COUNT].index)}
        columns.append(frame[field].map(known).fillna(0).to_numpy(dtype=np.int64))
        sizes[field.replace(".", "_")] = len(known) + 1
    features = torch.tensor(np.stack(columns, axis=1))
    test = torch.tensor(is_test)
    return Table(features[~test], labels[~test]), Table(features[test], labels[test]), sizes
