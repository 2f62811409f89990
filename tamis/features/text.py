"""What is known of a sample of text before it is trained on: the state of the reinforced curriculum.

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

**Unstated** in the paper: see `tamis.features.ngrams` for vectors of sentence length; a sentence shorter than n has no
n-gram, and zeros stand for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from tamis.core.checks import check_int
from tamis.core.distributed import gather_objects, parallel_map, rank_stretch
from tamis.core.progress import progress_bar
from tamis.core.types import Collate, MapDataset, PathOrStr
from tamis.features.cache import cached, cached_on_all_ranks
from tamis.features.columns import Column, Columns, TableLike, fingerprint_columns
from tamis.features.losses import SampleLoss, log_likelihoods
from tamis.features.ngrams import STATISTICS, ngram_counts, summarise, tag_values, token_ids
from tamis.features.table import FeatureTable

__all__ = ["Tagger", "curriculum_features"]

#: A function of a batch (column -> list of values) that gives [B] or [B, width] numbers.
RowFunction: TypeAlias = Callable[[dict[str, list[Any]]], ArrayLike]

_STRETCH = 1000  # rows given to a user's function at once


class Tagger(Protocol):
    """Anything that tags a sentence: POS, NER or a vocabulary of your own."""

    def __call__(self, tokens: list[str], /) -> Sequence[str]:
        """One tag a token."""


def curriculum_features(
    data: TableLike,
    *,
    text: Sequence[str] = (),
    tags: Mapping[str, tuple[str, str | Tagger]] | None = None,
    columns: Sequence[str] = (),
    functions: Mapping[str, RowFunction] | None = None,
    model: nn.Module | None = None,
    items: MapDataset | None = None,
    collate: Collate | None = None,
    loss: str | SampleLoss = "auto",
    batch_size: int = 64,
    order: int = 4,
    cache: PathOrStr | None = None,
) -> FeatureTable:
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
        collate: a list of items -> a batch; default: torch's.
        loss: as `log_likelihoods`.
        batch_size: samples per forward pass.
        order: the largest n of the n-grams.
        cache: folder that keeps lengths, rarities and log-likelihoods of columns and weights that were seen before.

    Returns:
        A `FeatureTable` of groups: ``length``, ``rarity``, ``tags``, those of ``columns`` and ``functions``,
        ``log_likelihood`` (columns ``sum``, ``per_token``); each if it was asked for.

    Raises:
        KeyError: a column is missing.
        ValueError: nothing was asked for, tags that do not fit their tokens, a value that is not finite.
    """
    read = Columns(data)
    found = [*_from_columns(read, text, tags, columns, functions, check_int("order", order, low=1), cache)]
    if model is not None:
        values = _from_model(read, text, model, data if items is None else items, collate, loss, batch_size, cache)
        found.append(("log_likelihood", values, ("sum", "per_token")))
    if not found:
        raise ValueError("curriculum_features: asked for nothing; pass text=, tags=, columns=, functions= or model=")
    return FeatureTable(
        {name: values for name, values, _ in found},
        {name: names for name, _, names in found if names},
        fingerprint=fingerprint_columns([read[name] for name in text]),
    )


def _from_columns(
    read: Columns,
    text: Sequence[str],
    tags: Mapping[str, tuple[str, str | Tagger]] | None,
    columns: Sequence[str],
    functions: Mapping[str, RowFunction] | None,
    order: int,
    cache: PathOrStr | None,
) -> Iterator[tuple[str, np.ndarray, Sequence[str]]]:
    """Name, values and column names (if they are not the default ones) of each group that needs no model."""
    if text:
        lengths, rarities = _text_groups(read, text, order, cache)
        statistics = [f"{n}-gram.{s}" for n in range(1, order + 1) for s in STATISTICS]
        yield "length", lengths, list(text)
        yield "rarity", rarities, [f"{side}.{s}" for side in text for s in statistics]
    if tags:
        block = np.concatenate([_tag_block(read, *source, name) for name, source in tags.items()], 1)
        yield "tags", block, [f"{name}.{s}" for name in tags for s in STATISTICS]
    for name in columns:
        yield name, np.asarray(read[name], np.float32).reshape(len(read), -1), ()
    for name, function in (functions or {}).items():
        yield name, _apply(read, function, name), ()


def _from_model(
    read: Columns,
    text: Sequence[str],
    model: nn.Module,
    seen: Any,
    collate: Collate | None,
    loss: str | SampleLoss,
    batch_size: int,
    cache: PathOrStr | None,
) -> np.ndarray:
    """Log-likelihoods of what ``model`` sees, from the cache if they are there: float32 [n, 2]."""
    if len(seen) != len(read):
        raise ValueError(f"items: must be as many as data ({len(read)}), got {len(seen)}")
    key = ("log_likelihood", [fingerprint_columns([read[t]]) for t in text], loss, dict(model.state_dict()))
    return cached_on_all_ranks(
        cache if text and isinstance(loss, str) else None,
        key,
        lambda: log_likelihoods(model, seen, collate=collate, loss=loss, batch_size=batch_size),
    )


def _text_groups(
    read: Columns, text: Sequence[str], order: int, cache: PathOrStr | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and rarities of all text columns: float32 [n, columns], [n, columns * 4 * order]."""

    def part(side: str) -> np.ndarray:
        column = read[side]
        key = ("text", order, fingerprint_columns([column]) if cache is not None else "")
        return cached(cache, key, lambda: _text_block(column, order))

    parts = parallel_map(part, list(text))
    return np.stack([block[:, 0] for block in parts], 1), np.concatenate([block[:, 1:] for block in parts], 1)


def _text_block(column: Column, order: int) -> np.ndarray:
    """Length and the rarities of one text column: float32 [n, 1 + 4 * order]."""
    ids, lengths = token_ids(column)
    blocks = [lengths[:, None].astype(np.float32)]
    for counts, sizes in ngram_counts(ids, lengths, order):
        blocks.append(summarise(np.log(max(len(counts), 1)) - np.log(counts), sizes))  # -log of Eq. (3.8)
    return np.concatenate(blocks, 1)


def _tag_block(read: Columns, side: str, source: str | Tagger, name: str) -> np.ndarray:
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


def _apply(read: Columns, function: RowFunction, name: str) -> np.ndarray:
    """A user's function over all rows: float32 [n, width]."""

    def rows_of(rows: dict[str, list[Any]]) -> list[Any]:
        return list(np.asarray(function(rows), np.float32))

    values = _dealt(read, rows_of, name)
    if len(values) != len(read):
        raise ValueError(f"functions[{name!r}]: must give one row a sample, got {len(values)} for {len(read)}")
    return np.stack(values).reshape(len(read), -1)


def _dealt(read: Columns, function: Callable[[dict[str, list[Any]]], list[Any]], name: str) -> list[Any]:
    """``function`` over stretches of rows, each rank doing its share; the results in order, on every rank."""
    mine: list[Any] = []
    stretch = rank_stretch(len(read))
    for at in progress_bar(range(stretch.start, stretch.stop, _STRETCH), desc=name):
        mine += function(read.rows(at, min(at + _STRETCH, stretch.stop)))
    return [value for part in gather_objects(mine) for value in part]
