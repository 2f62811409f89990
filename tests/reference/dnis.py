"""DNIS, slowly and loop by loop, from arXiv:2006.04466 and the deviations that its card names. No tamis in here."""

from __future__ import annotations

import numpy as np


def blocks_by_frequency(counts: list[float], blocks: int | list[int], by: str = "count") -> list[int]:
    """The block of each row; 0 holds the most frequent."""
    n = len(counts)
    order = sorted(range(n), key=lambda i: (-counts[i], i))
    result, seen = [0] * n, 0.0
    for rank, row in enumerate(order):
        if isinstance(blocks, list):
            block = sum(rank >= sum(blocks[: k + 1]) for k in range(len(blocks)))
        elif by == "mass" and sum(counts):
            block = min(int(seen * blocks / sum(counts)), blocks - 1)
        else:
            block = rank * min(blocks, n) // n
        result[row] = block
        seen += counts[row]
    return result


def normalised(gradient: np.ndarray, eps: float) -> np.ndarray:
    """Eq. (8); a row of zeros stays."""
    result = np.zeros_like(gradient)
    for row in range(gradient.shape[0]):
        size = sum(abs(g) for g in gradient[row]) / gradient.shape[1]
        if size > 0:
            for k in range(gradient.shape[1]):
                result[row, k] = gradient[row, k] / (size + eps)
    return result


def alpha_step(alpha: np.ndarray, gradient: np.ndarray, rate: float, eps: float, l1: float = 0.0) -> np.ndarray:
    """Line 9 of Alg. 1."""
    result, direction = alpha.copy(), normalised(gradient, eps)
    for row in range(alpha.shape[0]):
        if any(direction[row]):
            for k in range(alpha.shape[1]):
                result[row, k] = min(max(alpha[row, k] - rate * (direction[row, k] + l1), 0.0), 1.0)
    return result


def kept_columns(
    tables: list[np.ndarray], blocks: list[list[int]], alphas: list[np.ndarray], keep: float
) -> list[np.ndarray]:
    """Columns per block by the mean square of the merged values; a column of a block costs its share of the rows."""
    candidates = []
    for t, (table, block, alpha) in enumerate(zip(tables, blocks, alphas, strict=True)):
        for b in range(alpha.shape[0]):
            rows = [i for i in range(len(table)) if block[i] == b]
            for k in range(alpha.shape[1]):
                energy = sum((table[i, k] * alpha[b, k]) ** 2 for i in rows) / max(1, len(rows))
                candidates.append((-energy, t, b, k, len(rows) / len(table)))
    left = max(1.0, round(keep * sum(table.shape[1] for table in tables))) * (1 + 1e-9)
    result = [np.zeros(alpha.shape, dtype=bool) for alpha in alphas]
    for _, t, b, k, cost in sorted(candidates, key=lambda c: c[0]):
        if cost <= left:
            result[t][b, k] = True
            left -= cost
    return result
