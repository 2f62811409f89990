"""Minimum redundancy, maximum reward: a varied selection of good multisets.

H. Peng, F. Long, C. Ding, "Feature selection based on mutual information", 2005, as stage 2 of "LA3: Efficient
Label-Aware AutoAugment" uses it (Eq. (4.5) and Algorithm 3 of chapter 4 of M. Zhao's thesis). What is new there: the
next choice is a good one that shares few operations with those chosen before.

============ ============= ========= ======================================================================
symbol       here          shape     meaning
============ ============= ========= ======================================================================
A            ``sets``      [M, size] the search space: all multisets of ``size`` of the items, sorted
r~(tau, y)   ``rewards``   [L, M]    what the predictor expects of each multiset for each label
|tau ^ tau'| `overlaps`    [M, M]    number of items in common, each as often as it occurs in both
alpha        ``alpha``     scalar    weight of redundancy; 0 is the plain top k
N_cand       ``count``     scalar    how many are chosen for each label
============ ============= ========= ======================================================================

**Deviations**: rewards are shifted to begin at 0, label by label, before anything else. As printed, r-bar, the mean
reward, is nearly always negative (an augmentation lowers accuracy), and then Eq. (4.5) *rewards* redundancy. Shifted,
the selection does not change if a constant is added to all rewards or all are multiplied by a positive number. The
authors' code shifts too; its ``alpha=2.5`` is 5 here (it scores the L1 distance of counts, 2 * size - 2 * overlap).
Its first choice is the worst triple and its second a random one; ours is the best. Choices are distinct multisets:
the code's distinct ordered triples are, one in three, the same operations again.

**Unstated**: ties go to the first multiset; r-bar is taken as 1 where all rewards are equal.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

from tamis.core.checks import check_int, check_range

__all__ = ["counts", "multisets", "overlaps", "select"]

_CHUNK = 256  # labels at a time: bounds memory at a few MB for 816 multisets


def multisets(items: int, size: int) -> np.ndarray:
    """All multisets of ``size`` of the items 0..items - 1: int64 [M, size], rows sorted, in lexicographic order.

    Args:
        items: number of items, >= 1.
        size: of each multiset, >= 1.
    """
    return np.array(list(combinations_with_replacement(range(items), size)))


def counts(sets: np.ndarray, items: int) -> np.ndarray:
    """How often each item is in each multiset: int64 [M, items].

    Args:
        sets: of `multisets`, [M, size].
        items: number of items.
    """
    result: np.ndarray = (sets[:, :, None] == np.arange(items)).sum(1)
    return result


def overlaps(sets: np.ndarray) -> np.ndarray:
    """|tau ^ tau'| for all pairs: float32 [M, M]."""
    often = counts(sets, int(sets.max()) + 1)
    total = np.zeros((len(sets), len(sets)), dtype=np.float32)
    for column in often.T:
        total += np.minimum(column[:, None], column)
    return total


def select(rewards: np.ndarray, sets: np.ndarray, count: int, *, alpha: float) -> np.ndarray:
    """Choose ``count`` multisets for each label, Algorithm 3.

    A running sum of overlaps makes a choice O(M) a label.

    Args:
        rewards: finite, [L, M].
        sets: the M multisets.
        count: 1..M.
        alpha: >= 0.

    Returns:
        Places in ``sets``, int64 [L, count], in the order they were chosen.
    """
    check_int("count", count, low=1, high=len(sets))
    check_range("alpha", alpha, low=0)
    if rewards.ndim != 2 or rewards.shape[1] != len(sets) or not np.isfinite(rewards).all():
        raise ValueError(f"rewards of shape {list(rewards.shape)}: must be finite [L, {len(sets)}]")
    common = overlaps(sets)
    return np.concatenate(
        [_select(rewards[at : at + _CHUNK], common, count, alpha) for at in range(0, len(rewards), _CHUNK)]
    )


def _select(rewards: np.ndarray, common: np.ndarray, count: int, alpha: float) -> np.ndarray:
    relevance = (rewards - rewards.min(1, keepdims=True)).astype(np.float64)
    mean = relevance.mean(1, keepdims=True)
    weight = alpha * np.where(mean > 0, mean, 1.0)
    redundancy = np.zeros_like(relevance)  # sum of overlaps with those chosen
    labels, chosen = np.arange(len(rewards)), np.empty((len(rewards), count), dtype=np.int64)
    for k in range(count):
        score = relevance - weight / max(k, 1) * redundancy  # Eq. (4.5)
        score[labels[:, None], chosen[:, :k]] = -np.inf
        chosen[:, k] = score.argmax(1)
        redundancy += common[chosen[:, k]]
    return chosen
