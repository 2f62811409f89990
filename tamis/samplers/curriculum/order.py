"""Orders of the curriculum: a permutation that is known at any place, and the best of every pool of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor

from tamis.core.checks import check_int
from tamis.core.rng import numpy_generator

__all__ = ["best_of", "permuted"]


def best_of(blocks: Iterable[Tensor], pool: int) -> Iterator[int]:
    """Positions of the best of every ``pool`` consecutive scores of an endless stream; a last, short pool is dropped.

    Args:
        blocks: scores in stretches of any length, e.g. of a streaming data set.
        pool: candidates of which one is taken, >= 1.
    """
    check_int("pool", pool, low=1)
    offset, rest = 0, np.empty(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block.detach().float().cpu().numpy()])
        whole = len(rest) // pool
        best = rest[: whole * pool].reshape(whole, pool).argmax(1) if whole else np.empty(0, np.int64)
        yield from (offset + np.arange(whole) * pool + best).tolist()
        offset, rest = offset + whole * pool, rest[whole * pool :]


def permuted(positions: np.ndarray, size: int, *key: int) -> np.ndarray:
    """Where a pseudo-random permutation of [0, size) sends ``positions``: random access, no memory.

    A Feistel network over the next even number of bits; what falls outside goes through it again.

    Args:
        positions: int64 [K] in [0, size).
        size: of the permutation, in [1, 2**62).
        key: integers that name the permutation.
    """
    half = max((int(size - 1).bit_length() + 1) // 2, 1)
    mask = np.uint64((1 << half) - 1)
    rounds = numpy_generator(*key).integers(0, 2**64, 6, dtype=np.uint64) | np.uint64(1)
    result = positions.astype(np.uint64)
    todo = np.arange(len(result))
    while len(todo):
        left, right = result[todo] >> np.uint64(half), result[todo] & mask
        for constant in rounds:
            mixed = (right + constant) * constant
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((mixed >> np.uint64(33)) & mask)
        result[todo] = (left << np.uint64(half)) | right
        todo = todo[result[todo] >= np.uint64(size)]
    return result.astype(np.int64)
