"""How rare a sentence's n-grams are in its corpus: exact counts, from text, by sorting packed integers.

M. Zhao et al., "Reinforced Curriculum Learning on Pre-trained Neural Machine Translation Models", AAAI 2020 (chapter
3 of the thesis "Automated Data Engineering"). What is new there: a learned policy picks, out of b random samples, the
one that still improves a trained model; the rarity of the samples' n-grams is a part of what it sees.

========== ================== ============================================================================
symbol     here               meaning
========== ================== ============================================================================
g^(n)      a position         an n-gram is named by the position of its first token
f^(n)(g)   ``frequencies``    its relative frequency in the corpus, Eq. (3.8), float64 [n-grams]
F^(n)(s)   a ragged row       the frequencies of a sentence's n-grams, Eq. (3.9)
v(w, t)    `tag_values`       share of the occurrences of w that are tagged t, Eq. (3.10), float64 [tokens]
========== ================== ============================================================================

How: an n-gram is its (n-1)-gram and one more token. One sort of (prefix, token, position), packed into 64 bits, brings
equal n-grams together, and a position whose (n-1)-gram occurs once needs no sort at all: its n-gram occurs once too.

**Unstated** in the paper: how a vector of sentence length enters a layer of fixed width. `summarise` turns it into
mean, standard deviation, minimum and maximum over the sentence's own n-grams, so that padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tamis.core.extras import needs
from tamis.features.columns import Column

if TYPE_CHECKING:
    import pyarrow

__all__ = ["STATISTICS", "Ragged", "count_keys", "ngram_counts", "summarise", "tag_values", "token_ids"]

STATISTICS = ("mean", "std", "min", "max")
_CHUNK = 50_000  # sentences split at once: bounds what pyarrow holds

Ragged = tuple[np.ndarray, np.ndarray]  # values of all rows one after the other [T], length of each row [n]


def token_ids(column: Column, *, ignore: Sequence[int] = (-100,)) -> Ragged:
    """Integer tokens of a column: (ids [T], lengths int64 [n]).

    Args:
        column: n strings (split at white space), n rows of strings (tokens, tags), or n rows of integers (a
            tokenizer's ``input_ids`` or ``labels``); a list, an array [n, L] or a pyarrow (chunked) array.
        ignore: integers that are padding, dropped.

    Raises:
        TypeError: none of these, or a row that is None.
    """
    with needs("text", "text columns"):
        import pyarrow as pa

    if isinstance(column, np.ndarray) and column.ndim == 2:
        column = list(column)
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([pa.array(column)])
    if chunked.null_count:
        raise TypeError("column: holds None; fill it with '' or drop these rows")
    kind = chunked.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _word_ids(chunked)
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    if inner is None or not (
        pa.types.is_integer(inner) or pa.types.is_string(inner) or pa.types.is_large_string(inner)
    ):
        raise TypeError(f"column: must hold strings, or rows of integers or of strings, got {kind}")
    lengths, values = [np.empty(0, np.int64)], []
    for chunk in chunked.chunks:
        lengths.append(chunk.value_lengths().to_numpy().astype(np.int64))
        values.append(chunk.flatten())
    flat, sizes = pa.chunked_array(values, type=inner), np.concatenate(lengths)
    if not pa.types.is_integer(inner):
        coded = flat.combine_chunks().dictionary_encode()
        return coded.indices.to_numpy(), sizes
    numbers = flat.to_numpy().astype(np.int64)
    kept = ~np.isin(numbers, list(ignore))
    return numbers[kept], _segment_sums(kept.astype(np.int64), sizes)


def _word_ids(chunked: pyarrow.ChunkedArray) -> Ragged:
    """White-space tokens as int32 ids; equal words get equal ids."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.array([], pa.large_string())
    ids, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    for chunk in chunked.chunks:
        for at in range(0, len(chunk), _CHUNK):
            part = pc.utf8_trim_whitespace(chunk.slice(at, _CHUNK).cast(pa.large_string()))
            words = pc.utf8_split_whitespace(part)
            sizes = pc.list_value_length(words).to_numpy().astype(np.int64)
            coded = words.flatten().dictionary_encode()
            place = pc.index_in(coded.dictionary, known)
            fresh = place.is_null()
            known = pa.concat_arrays([known, coded.dictionary.filter(fresh)])
            new = np.cumsum(fresh.to_numpy(zero_copy_only=False)) - 1 + len(known) - pc.sum(fresh).as_py()
            table = np.where(fresh.to_numpy(zero_copy_only=False), new, place.fill_null(0).to_numpy()).astype(np.int32)
            words_here = table[coded.indices.to_numpy()]
            empty = pc.equal(part, "").to_numpy(zero_copy_only=False)  # splits into one empty word
            if empty.any():
                words_here = words_here[~np.repeat(empty, sizes)]
                sizes[empty] = 0
            ids.append(words_here)
            lengths.append(sizes)
    return np.concatenate(ids), np.concatenate(lengths)


def ngram_counts(ids: np.ndarray, lengths: np.ndarray, order: int) -> Iterator[Ragged]:
    """For n = 1 .. ``order``: how often each n-gram of each sentence occurs in the corpus (int64), and how many it has.

    Dividing by the counts' own length gives Eq. (3.8).

    Args:
        ids: integer tokens of all sentences [T].
        lengths: tokens of each sentence [n].
        order: the largest n, >= 1.
    """
    tokens, vocabulary = _compact(ids)
    left = np.arange(len(tokens), dtype=np.int64)  # tokens from here to the end of the sentence
    left = np.repeat(np.cumsum(lengths), lengths) - left
    prefix, counts = tokens, np.bincount(tokens, minlength=max(vocabulary, 1))[tokens]
    occurrences = counts
    for n in range(1, order + 1):
        if n > 1:
            inside = left >= n
            live = inside & (counts > 1)
            live[: max(len(live) - n + 1, 0)] &= occurrences[n - 1 :] > 1  # a token seen once makes its n-gram unique
            at = np.flatnonzero(live)
            group, seen = count_keys(prefix[at], tokens[at + n - 1])
            counts = np.ones_like(counts)
            counts[at] = seen
            prefix = np.zeros_like(prefix)
            prefix[at] = group
            yield counts[inside], np.maximum(lengths - n + 1, 0)
        else:
            yield counts, lengths


def count_keys(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct pairs and count them: (number int64 [K] < distinct pairs, occurrences int64 [K]).

    Args:
        first: integers >= 0 [K].
        second: integers >= 0 [K].
    """
    size = len(first)
    if not size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low, place = _bits(int(second.max())), _bits(size - 1)
    high = _bits(int(first.max()))
    if high + low + place <= 64:
        packed = first.astype(np.uint64) << np.uint64(low + place)
        packed |= second.astype(np.uint64) << np.uint64(place)
        packed |= np.arange(size, dtype=np.uint64)
        packed.sort()  # the vectorised sort of plain integers: several times faster than an argsort
        order = (packed & np.uint64((1 << place) - 1)).astype(np.int64)
        packed >>= np.uint64(place)
        starts = np.flatnonzero(np.concatenate([[True], packed[1:] != packed[:-1]]))
    else:
        order = np.lexsort((second, first))
        a, b = first[order], second[order]
        starts = np.flatnonzero(np.concatenate([[True], (a[1:] != a[:-1]) | (b[1:] != b[:-1])]))
    runs = np.diff(np.append(starts, size))
    number, occurrences = np.empty(size, np.int64), np.empty(size, np.int64)
    number[order] = np.repeat(np.arange(len(runs)), runs)
    occurrences[order] = np.repeat(runs, runs)
    return number, occurrences


def tag_values(words: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """v(w, t), Eq. (3.10): the share of the occurrences of each token's word that have the token's tag, in (0, 1].

    Args:
        words: integers of every token of the corpus [T].
        tags: the tag of each [T].
    """
    w, _ = _compact(words)
    t, _ = _compact(tags)
    shares: np.ndarray = count_keys(w, t)[1] / np.bincount(w, minlength=1)[w]  # Eq. (3.10)
    return shares


def summarise(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`STATISTICS` of each row of a ragged array: float32 [n, 4]; a row without values gives zeros.

    Args:
        values: of all rows, one after the other [T].
        lengths: values of each row, int64 [n].
    """
    result = np.zeros((len(lengths), len(STATISTICS)), np.float32)
    some = lengths > 0
    if not some.any():
        return result
    sizes = lengths[some]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    mean = np.add.reduceat(values, starts, dtype=np.float64) / sizes
    square = np.add.reduceat(np.square(values - np.repeat(mean, sizes)), starts) / sizes
    columns = mean, np.sqrt(square), np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    result[some] = np.stack(columns, 1)
    return result


def _segment_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(lengths)
    sums: np.ndarray = total[ends] - total[ends - lengths]
    return sums


def _compact(ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids as int64 in [0, K); K is at most a few times the number of distinct ones."""
    if not len(ids):
        return ids.astype(np.int64), 0
    low, high = int(ids.min()), int(ids.max())
    if low >= 0 and high < 4 * len(ids) + 1024:
        return ids.astype(np.int64), high + 1
    values, inverse = np.unique(ids, return_inverse=True)
    return inverse.astype(np.int64), len(values)


def _bits(largest: int) -> int:
    return max(largest.bit_length(), 1)
