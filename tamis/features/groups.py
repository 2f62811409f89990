"""The state of the reinforced curriculum: what is known of a sample before it is trained on.

M. Zhao et al., AAAI 2020 (thesis, section 3.4.2): length (informativeness), the model's log-likelihood (uncertainty),
rarity of n-grams and of tags (diversity). Every feature is a fixed number of columns, the same whatever the padding.

| group | columns | agent's width |
|---|---|---|
| ``length`` | tokens of each text column | 1 |
| ``log_likelihood`` | log p(y|x), Eq. (3.7), and the same per token | 8 |
| ``tags`` | `STATISTICS` of v(w, t), Eq. (3.11), per tagging | 16 |
| ``rarity`` | `STATISTICS` of -log f, Eq. (3.9), per text column and n = 1..4 | 32 |
| your own | a column or a function of the data set | 8 |

**Deviations**: rarity is -log f and not f, whose values span as many powers of ten as the corpus has. The
log-likelihood per token stands beside the sum, which is mostly length.

**Unstated** in the paper: see `curriculum_ngrams` for vectors of sentence length; a sentence shorter than n has no
n-gram, and zeros stand for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.checks import check_int
from tamis.core.distributed import broadcast_object, gather_objects, parallel_map, rank, world_size
from tamis.core.progress import progress_bar
from tamis.core.short import short_repr
from tamis.features.losses import SampleLoss, log_likelihoods
from tamis.features.ngrams import STATISTICS, ngram_counts, summarise, tag_values, token_ids
from tamis.policy.base import fingerprint

__all__ = ["CurriculumFeatures", "Tagger", "curriculum_features", "nltk_tagger", "spacy_tagger"]

_STRETCH = 1000  # rows given to a user's function at once


class Tagger(Protocol):
    """Anything that tags a sentence: POS, NER or a vocabulary of your own."""

    def __call__(self, tokens: list[str], /) -> Sequence[str]:
        """One tag a token."""


def nltk_tagger(tagger: Any) -> Tagger:
    """A `Tagger` of an NLTK tagger object (anything with ``tag(tokens) -> [(token, tag)]``)."""
    return lambda tokens: [str(tag) for _, tag in tagger.tag(tokens)]


def spacy_tagger(nlp: Any, attribute: str = "pos_") -> Tagger:
    """A `Tagger` of a spaCy pipeline; ``attribute`` of each token, e.g. ``"pos_"``, ``"tag_"``, ``"ent_type_"``."""

    def tag(tokens: list[str], /) -> list[str]:
        from spacy.tokens import Doc

        return [getattr(token, attribute) for token in nlp(Doc(nlp.vocab, words=tokens))]

    return tag


@dataclass(frozen=True, eq=False)
class CurriculumFeatures:
    """Features of a data set, in its order.

    Attributes:
        groups: name -> float32 [n, width], finite.
        columns: name -> the width's column names.
        fingerprint: of the columns they were computed from, "" if there were none.

    Raises:
        ValueError: no group, sizes that differ, a value that is not finite.
    """

    groups: dict[str, Tensor]
    columns: dict[str, tuple[str, ...]]
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.groups or self.groups.keys() != self.columns.keys():
            raise ValueError(f"groups={sorted(self.groups)}: must be one or more, each with its column names")
        for name, values in self.groups.items():
            if values.dtype != torch.float32 or values.shape != (len(self), len(self.columns[name])) or not len(values):
                raise ValueError(
                    f"groups[{name!r}]: must be float32 [{len(self)}, {len(self.columns[name])}] with >= 1 rows, "
                    f"got {values.dtype} {list(values.shape)}"
                )
            bad = torch.nonzero(~torch.isfinite(values))
            if len(bad):
                row, column = bad[0].tolist()
                raise ValueError(f"{name}.{self.columns[name][column]}[{row}]: must be finite; look at sample {row}")

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(next(iter(self.groups.values())))

    def matrix(self, start: int = 0, stop: int | None = None) -> Tensor:
        """All groups side by side, rows ``start`` to ``stop``: float32 [rows, D]."""
        return torch.cat([values[start:stop] for values in self.groups.values()], 1)

    def column(self, group: str, name: str) -> Tensor:
        """One column: float32 [n].

        Raises:
            KeyError: no such group or column.
        """
        if group not in self.groups or name not in self.columns[group]:
            known = [f"{g}.{c}" for g, columns in self.columns.items() for c in columns]
            raise KeyError(f"{group}.{name}: not among the features {', '.join(known)}")
        return self.groups[group][:, self.columns[group].index(name)]

    def with_group(self, name: str, values: Any, columns: Sequence[str] = ()) -> CurriculumFeatures:
        """A copy with one more, or another, group: ``values`` [n] or [n, width]."""
        tensor = torch.as_tensor(values).float()
        tensor = tensor[:, None] if tensor.ndim == 1 else tensor
        names = tuple(columns) or _default_names(name, tensor)
        return replace(self, groups={**self.groups, name: tensor}, columns={**self.columns, name: names})

    def check(self, data: Any, text: Sequence[str]) -> None:
        """Raise `ValueError` unless the features were computed from these text columns of ``data``, in this order."""
        read = _Columns(data)
        if len(read) != len(self):
            raise ValueError(f"data: {len(read)} samples, the features {len(self)}: compute its own features")
        if _fingerprint([read[name] for name in text]) != self.fingerprint:
            raise ValueError(f"data: the columns {', '.join(text)} are not those of the features; compute its own")

    def digest(self) -> str:
        """sha256 over all names and values."""
        return fingerprint(self.fingerprint, {k: list(v) for k, v in self.columns.items()}, self.groups)

    def add_to(self, dataset: Any) -> Any:
        """A `datasets.Dataset` with one more float32 column per feature, named ``group.column``."""
        for group, names in self.columns.items():
            for name in names:
                dataset = dataset.add_column(f"{group}.{name}", self.column(group, name).numpy())
        return dataset

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        meta = {"format": "tamis.curriculum_features", "fingerprint": self.fingerprint}
        meta["columns"] = json.dumps({name: list(names) for name, names in self.columns.items()})
        temporary = Path(f"{path}.{rank()}.tmp")
        save_file({name: values.contiguous() for name, values in self.groups.items()}, temporary, metadata=meta)
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> CurriculumFeatures:
        """Read what `save` wrote.

        Raises:
            ValueError: another kind of file.
        """
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            if meta.get("format") != "tamis.curriculum_features":
                raise ValueError(f"path={str(path)!r}: is no file of curriculum features")
            columns = {name: tuple(names) for name, names in json.loads(meta["columns"]).items()}
            return cls({name: file.get_tensor(name) for name in columns}, columns, meta["fingerprint"])


def curriculum_features(
    data: Any,
    *,
    text: Sequence[str] = (),
    tags: Mapping[str, tuple[str, str | Tagger]] | None = None,
    columns: Sequence[str] = (),
    functions: Mapping[str, Callable[[dict[str, list[Any]]], Any]] | None = None,
    model: nn.Module | None = None,
    items: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
    loss: str | SampleLoss = "auto",
    batch_size: int = 64,
    order: int = 4,
    cache: str | Path | None = None,
) -> CurriculumFeatures:
    """Features of every sample of ``data``, in its order; on several processes the work is dealt to them.

    Args:
        data: a `datasets.Dataset`, a dict of columns, a pyarrow table, a pandas frame or a list of dicts.
        text: columns of strings or of token ids; lengths and rarities are taken of each.
        tags: name -> (text column, column of tags or `Tagger`), e.g. ``{"pos": ("en", tagger)}``. A column holds one
            tag a token: a row of strings or a string of words.
        columns: numeric columns to take as they are.
        functions: name -> function of a batch (dict of lists) that gives [B] or [B, width] numbers.
        model: if given, its log-likelihood of every sample (`log_likelihoods`).
        items: what ``model`` sees, if not the rows of ``data``: a map-style data set in the same order.
        collate: a list of items -> a batch for ``model``; default: torch's.
        loss: as `log_likelihoods`.
        batch_size: samples per forward pass.
        order: the largest n of the n-grams.
        cache: a folder; lengths, rarities and log-likelihoods are read from there if the same columns (and the same
            weights) were seen before. Tags and functions are always computed.

    Raises:
        KeyError: a column is missing.
        ValueError: nothing was asked for, tags that do not fit their tokens, a value that is not finite.
    """
    check_int("order", order, low=1)
    read = _Columns(data)
    sides = [_fingerprint([read[name]]) for name in text]
    features: dict[str, tuple[np.ndarray, list[str]]] = {}
    parts = parallel_map(lambda k: _text_block_cached(cache, sides[k], read[text[k]], order), list(range(len(text))))
    statistics = [f"{n}-gram.{s}" for n in range(1, order + 1) for s in STATISTICS]
    if text:
        features["length"] = np.stack([part[:, 0] for part in parts], 1), list(text)
        rarity = np.concatenate([part[:, 1:] for part in parts], 1)
        features["rarity"] = rarity, [f"{side}.{s}" for side in text for s in statistics]
    if tags:
        blocks = [_tag_block(read, *source, name) for name, source in tags.items()]
        features["tags"] = np.concatenate(blocks, 1), [f"{name}.{s}" for name in tags for s in STATISTICS]
    for name in columns:
        features[name] = np.asarray(read[name], np.float32).reshape(len(read), -1), []
    for name, function in (functions or {}).items():
        features[name] = _apply(read, function, name), []
    if model is not None:
        seen = data if items is None else items
        if len(seen) != len(read):
            raise ValueError(f"items: must be as many as data ({len(read)}), got {len(seen)}")

        def likelihood() -> np.ndarray:
            return log_likelihoods(model, seen, collate=collate, loss=loss, batch_size=batch_size)

        if cache is None or not sides or not isinstance(loss, str):
            values = likelihood()
        else:
            path = _cache_path(cache, ("log_likelihood", sides, loss, dict(model.state_dict())))
            values = _read_block(path) if broadcast_object(path.exists()) else likelihood()
            if rank() == 0:
                _write_block(path, values)
        features["log_likelihood"] = values, ["sum", "per_token"]
    if not features:
        raise ValueError("curriculum_features: asked for nothing; pass text=, tags=, columns=, functions= or model=")
    groups, names = {}, {}
    for name, (block, known) in features.items():
        groups[name] = torch.from_numpy(np.ascontiguousarray(block, np.float32))
        names[name] = tuple(known) or _default_names(name, groups[name])
    return CurriculumFeatures(groups, names, _fingerprint([read[name] for name in text]))


def _default_names(group: str, values: Tensor) -> tuple[str, ...]:
    return (group,) if values.shape[1] == 1 else tuple(map(str, range(values.shape[1])))


class _Columns:
    """Columns of any tabular ``data`` by name."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(next(iter(self.data.values()))) if isinstance(self.data, dict) else len(self.data)

    def __getitem__(self, name: str) -> Any:
        names = self.names()
        if name not in names:
            raise KeyError(f"column {name!r}: not among {', '.join(names)}")
        if hasattr(self.data, "with_format"):  # datasets: arrow, in the order that select and shuffle gave it
            return self.data.select_columns([name]).with_format("arrow")[:].column(name)
        if isinstance(self.data, (list, tuple)):
            return [row[name] for row in self.data]
        return self.data[name]

    def names(self) -> list[str]:
        if hasattr(self.data, "column_names"):
            return list(self.data.column_names)
        if isinstance(self.data, (list, tuple)):
            return list(self.data[0]) if self.data else []
        return [str(name) for name in self.data]

    def rows(self, low: int, high: int) -> dict[str, list[Any]]:
        if isinstance(self.data, (list, tuple)):
            return {name: [row[name] for row in self.data[low:high]] for name in self.names()}
        if hasattr(self.data, "with_format"):
            return dict(self.data[low:high])
        return {name: list(self.data[name][low:high]) for name in self.names()}


def _text_block(column: Any, order: int) -> np.ndarray:
    """Length and the rarities of one text column: float32 [n, 1 + 4 * order]."""
    ids, lengths = token_ids(column)
    blocks = [lengths[:, None].astype(np.float32)]
    for counts, sizes in ngram_counts(ids, lengths, order):
        blocks.append(summarise(np.log(max(len(counts), 1)) - np.log(counts), sizes))  # -log of Eq. (3.8)
    return np.concatenate(blocks, 1)


def _tag_block(read: _Columns, side: str, source: str | Tagger, name: str) -> np.ndarray:
    """`STATISTICS` of Eq. (3.11) of one tagging: float32 [n, 4]."""
    words, lengths = token_ids(read[side])
    if isinstance(source, str):
        tags, sizes = token_ids(read[source])
    else:
        tagger = source
        tags, sizes = token_ids(_dealt(read, lambda rows: [list(tagger(text.split())) for text in rows[side]], name))
    wrong = np.flatnonzero(lengths != sizes)
    if len(wrong):
        row = wrong[0]
        raise ValueError(f"tags[{name!r}]: row {row} has {sizes[row]} tags for {lengths[row]} tokens of {side!r}")
    return summarise(tag_values(words, tags), lengths)


def _apply(read: _Columns, function: Callable[[dict[str, list[Any]]], Any], name: str) -> np.ndarray:
    """A user's function over all rows: float32 [n, width]."""

    def rows_of(rows: dict[str, list[Any]]) -> list[Any]:
        return list(np.asarray(function(rows), np.float32))

    values = _dealt(read, rows_of, name)
    if len(values) != len(read):
        raise ValueError(f"functions[{name!r}]: must give one row a sample, got {len(values)} for {len(read)}")
    return np.stack(values).reshape(len(read), -1)


def _dealt(read: _Columns, function: Callable[[dict[str, list[Any]]], list[Any]], name: str) -> list[Any]:
    """``function`` over stretches of rows, each rank doing its share; the results in order, on every rank."""
    low, high = (len(read) * r // world_size() for r in (rank(), rank() + 1))
    mine: list[Any] = []
    for at in progress_bar(range(low, high, _STRETCH), desc=name):
        mine += function(read.rows(at, min(at + _STRETCH, high)))
    return [value for part in gather_objects(mine) for value in part]


def _fingerprint(columns: list[Any]) -> str:
    """sha256 over text columns; "" for none."""
    return fingerprint(*[fingerprint(*_bytes_of(column)) for column in columns]) if columns else ""


def _bytes_of(column: Any) -> list[Any]:
    """A text column as arrays, for `fingerprint`: the same for equal values, whatever holds them."""
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


def _text_block_cached(cache: str | Path | None, key: str, column: Any, order: int) -> np.ndarray:
    if cache is None:
        return _text_block(column, order)
    path = _cache_path(cache, ("text", order, key))
    if path.exists():
        return _read_block(path)
    block = _text_block(column, order)
    _write_block(path, block)
    return block


def _cache_path(folder: str | Path, key: tuple[Any, ...]) -> Path:
    return Path(folder) / f"{fingerprint(*key).removeprefix('sha256:')[:32]}.safetensors"


def _read_block(path: Path) -> np.ndarray:
    block: np.ndarray = CurriculumFeatures.load(path).groups["block"].numpy()
    return block


def _write_block(path: Path, block: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    CurriculumFeatures({"block": torch.from_numpy(block)}, {"block": tuple(map(str, range(block.shape[1])))}).save(path)
