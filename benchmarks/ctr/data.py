"""Click data for the DimReg benchmarks: planted, Frappe, MovieLens-1M, MovieLens-1M with crossed fields.

Every set comes as ids (0 = not seen in training) in three disjoint parts: train, validation (the only part on which
anything is chosen) and test (looked at once, at the end).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["DATASETS", "CTRData", "default_data", "load"]

Columns = dict[str, np.ndarray]
Raw = tuple[Columns, np.ndarray, dict[str, int] | None]  # field -> ids; labels; field -> useful rank, if known

CROSSES = (
    ("user_id", "first_genre"),
    ("movie_id", "age"),
    ("movie_id", "occupation"),
    ("user_id", "year"),
    ("zip", "first_genre"),
)


@dataclass(frozen=True)
class CTRData:
    """Ids [n, m] int64 and labels [n] float per part; ``sizes``: field -> ids, 0 included."""

    name: str
    sizes: dict[str, int]
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    useful: dict[str, int] | None = None  # planted data: field -> useful rank

    @property
    def rows(self) -> int:
        """Rows of all tables together: embedding parameters per dimension."""
        return sum(self.sizes.values())


def default_data() -> Path:
    """The folder of the real data, beside the repository."""
    return Path(__file__).resolve().parents[3] / "shared" / "data"


def load(name: str, folder: Path | None = None, *, seed: int = 0, rows: int | None = None) -> CTRData:
    """The data set ``name``, one of `DATASETS`; ``seed`` fixes the parts (and the planted data).

    ``rows``: at most so many training rows (the files are shuffled); the other two parts stay whole.
    """
    columns, label, useful = DATASETS[name](folder or default_data(), seed)
    return _parts(name, columns, label, seed, rows, useful)


def _parts(
    name: str, columns: Columns, label: np.ndarray, seed: int, rows: int | None, useful: dict[str, int] | None
) -> CTRData:
    """80 % train (0), 10 % validation (1), 10 % test (2), at random; ids are numbered by what the train part holds.

    Unseen ids become 0.
    """
    part = np.random.default_rng(seed).choice(3, size=len(label), p=[0.8, 0.1, 0.1])
    part[np.flatnonzero(part == 0)[rows:] if rows else []] = 3  # not used
    coded, sizes = [], {}
    for field, column in columns.items():
        known = np.unique(column[part == 0])
        place = np.searchsorted(known, column).clip(max=len(known) - 1)
        coded.append(np.where(known[place] == column, place + 1, 0))
        sizes[field] = len(known) + 1
    ids = torch.from_numpy(np.stack(coded, axis=1).astype(np.int64))
    labels = torch.from_numpy(label.astype(np.float32))
    train, validation, test = ((ids[part == k], labels[part == k]) for k in range(3))
    return CTRData(name, sizes, train, validation, test, useful)


def _movielens(folder: Path, seed: int, crosses: tuple[tuple[str, str], ...] = ()) -> Raw:
    import pandas as pd

    table = pd.read_parquet(folder / "movielens1m" / "ratings_like.parquet")
    fields = ["user_id", "movie_id", "gender", "age", "occupation", "zip", "year", "genres", "first_genre"]
    codes = {field: pd.factorize(table[field])[0].astype(np.int64) for field in fields}
    for left, right in crosses:
        codes[f"{left} x {right}"] = codes[left] * (codes[right].max() + 1) + codes[right]
    codes.pop("first_genre")  # it is the first of `genres`
    return codes, table["like"].to_numpy(), None


def _frappe(folder: Path, seed: int) -> Raw:
    import pandas as pd

    table = pd.read_parquet(folder / "frappe" / "frappe_full.parquet")
    columns = {field: table[field].to_numpy() for field in table.columns.drop(["label", "split"])}
    return columns, table["label"].to_numpy(), None


def _planted(folder: Path, seed: int, useful: tuple[int, ...] = (8, 6, 8, 4, 2, 2, 1, 0, 0, 0)) -> Raw:
    """Ten Zipf fields; the logit is a factorization machine over latent vectors whose ranks are known per field.

    Field f has ``useful[f]`` latent dimensions (0: noise). There is no first-order part, so that only the tables
    can carry the signal.
    """
    rng = np.random.default_rng([seed, 6])
    vocabulary = [1000, 800, 600, 500, 400, 300, 200, 200, 100, 50]
    count = 250_000
    ids = [rng.permutation(v)[(rng.zipf(1.2, count) - 1) % v] for v in vocabulary]
    width = max(useful)
    latent = [rng.normal(size=(v, width)) * (np.arange(width) < r) for v, r in zip(vocabulary, useful, strict=True)]
    rows = np.stack([table[i] for table, i in zip(latent, ids, strict=True)])
    logit = 0.5 * (rows.sum(0) ** 2 - (rows**2).sum(0)).sum(1)
    logit = 2.0 * (logit - logit.mean()) / logit.std()
    label = rng.random(count) < 1 / (1 + np.exp(-logit))
    columns = {f"field{f}": column for f, column in enumerate(ids)}
    return columns, label, dict(zip(columns, useful, strict=True))


DATASETS = {
    "planted": _planted,
    "null": lambda folder, seed: _planted(folder, seed, (16,) * 10),
    "frappe": _frappe,
    "movielens1m": _movielens,
    "movielens1m_crossed": lambda folder, seed: _movielens(folder, seed, CROSSES),
}
