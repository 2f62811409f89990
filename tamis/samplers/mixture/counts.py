"""How many items of each source come in each block of an epoch, as pure functions on numpy arrays.

| symbol | name | shape | dtype |
|---|---|---|---|
| p_s, the share of a source | shares | [S] | float64, sum 1 |
| m_b, the draws in block b | draws | [B] | int64 |
| U_b, the block's offset | offsets | [B] | float64 in [0, 1) |
| c_bs, items of source s in block b | the result | [B, S] | int64, rows sum to m_b |

Each block is a systematic sample (Madow, 1949): with F the running sum of p, c_bs = floor(m_b F_s + U_b) -
floor(m_b F_{s-1} + U_b), so that c_bs is m_b p_s rounded up or down and its mean over U is m_b p_s exactly. Blocks do
not depend on one another, which is why any position can be found without the draws before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

__all__ = ["block_counts", "check_shares", "limited_counts", "longest", "tempered"]

ROUNDING = 1e-9  # an epoch may be a draw shorter than the arithmetic says, never longer


def check_shares(weights: object, names: tuple[str, ...]) -> np.ndarray:
    """The weights of the sources in the order of ``names``, float64 [S], sum 1.

    Args:
        weights: name -> number >= 0, one for each source, not all 0.
        names: of the sources.

    Raises:
        TypeError: not a mapping of numbers.
        ValueError: other names, or weights that are negative, not finite or all 0.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights={weights!r}: must be a mapping from each source to its weight")
    if set(weights) != set(names):
        raise ValueError(f"weights: must name the sources {sorted(names)}, got {sorted(map(str, weights))}")
    array = np.array([float(weights[name]) for name in names])
    bad = [f"{name}={weights[name]}" for name, value in zip(names, array, strict=True) if not 0 <= value < math.inf]
    if bad:
        raise ValueError(f"weights: {', '.join(bad)}: must be finite and >= 0")
    if not array.sum():
        raise ValueError("weights: all are 0; at least one source must be drawn from")
    shares: np.ndarray = array / array.sum()
    return shares


def tempered(shares: np.ndarray, temperature: float) -> np.ndarray:
    """Shares raised to 1 / temperature and made to sum to 1 again: above 1 flatter, below 1 sharper.

    Conneau et al., 2020, "Unsupervised cross-lingual representation learning at scale", section 3.1 (alpha = 1 / T).

    Args:
        shares: float64 [S].
        temperature: > 0.
    """
    flat: np.ndarray = np.power(shares, 1.0 / temperature)
    flat /= flat.sum()
    return flat


def block_counts(shares: np.ndarray, draws: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Items of each source in each block, int64 [B, S].

    Args:
        shares: float64 [S] for all blocks, or [B, S].
        draws: int64 [B].
        offsets: float64 [B].
    """
    ends = np.cumsum(np.broadcast_to(shares, (len(draws), shares.shape[-1])), axis=1)
    ends /= ends[:, -1:]  # exactly 1 from the last source with a share on
    upto = np.floor(ends * draws[:, None] + offsets[:, None]).astype(np.int64)
    counts: np.ndarray = np.diff(np.minimum(upto, draws[:, None]), axis=1, prepend=0)
    return counts


def limited_counts(shares: np.ndarray, draws: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """As `block_counts`, where no source gives more than its size: what it lacks, the others give by their shares.

    Args:
        shares: float64 [B, S].
        draws: int64 [B]; their sum is at most that of the sizes of sources with a share.
        offsets: float64 [B].
        sizes: int64 [S].
    """
    left, rows = sizes.copy(), []
    for share, count, offset in zip(shares, draws, offsets, strict=True):
        row = np.zeros(len(sizes), np.int64)
        while (missing := int(count - row.sum())) > 0:
            open_ = np.where(left > row, share, 0.0)
            more = block_counts(open_ / open_.sum(), np.array([missing]), np.array([offset]))[0]
            row = np.minimum(row + more, left)
        left = left - row
        rows.append(row)
    return np.array(rows).reshape(len(draws), len(sizes))


def longest(sizes: np.ndarray, shares: np.ndarray, exhausted: str) -> int:
    """The draws of an epoch, if it is not said: >= 1.

    Args:
        sizes: int64 [S].
        shares: float64 [S].
        exhausted: ``"stop"``: until the first source would be used up; ``"renormalise"``: the items of all that are
            drawn from; ``"repeat"``: the items of all.
    """
    drawn = shares > 0
    if exhausted != "stop":
        return int(sizes.sum() if exhausted == "repeat" else sizes[drawn].sum())
    return max(1, math.floor(float((sizes[drawn] / shares[drawn]).min()) * (1 + ROUNDING)))
