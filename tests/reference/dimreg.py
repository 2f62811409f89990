"""DimReg in slow numpy, loop by loop, from chapter 6 of the thesis and the deviations on its card."""

from __future__ import annotations

import math

import numpy as np


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def polarisation(phi: list[float], t: float) -> float:
    """Eq. (6.6)."""
    mean = sum(phi) / len(phi)
    return sum(t * abs(p) - abs(p - mean) for p in phi)


def polarisation_grad(phi: list[float], t: float) -> list[float]:
    """Eq. (6.6) differentiated term by term: each |phi_k - mean| depends on every phi_i through the mean."""
    n, mean = len(phi), sum(phi) / len(phi)
    grad = []
    for i in range(n):
        total = t
        for k in range(n):
            total -= np.sign(phi[k] - mean) * ((1.0 if k == i else 0.0) - 1.0 / n)
        grad.append(total)
    return grad


def pair_polarisation(phi: list[float], pairs: list[tuple[int, int]], t: float) -> float:
    """Eqs. (6.6) and (6.11), averaged over the pairs."""
    if not pairs:
        return 0.0
    return sum(polarisation([phi[j], phi[k]], t) for j, k in pairs) / len(pairs)


def pearson(table: np.ndarray, weights: np.ndarray, j: int, k: int) -> float:
    """Eq. (6.9), rows weighted, two passes."""
    x, y, w = table[:, j].astype(float), table[:, k].astype(float), weights.astype(float) / weights.sum()
    x, y = x - (w * x).sum(), y - (w * y).sum()
    return float((w * x * y).sum() / math.sqrt((w * x * x).sum() * (w * y * y).sum()))


def top_pairs(tables: list[np.ndarray], weights: list[np.ndarray], live: list[np.ndarray], share: float, min_rows: int):
    """Eq. (6.10): [(|rho|, position j, position k)], largest first."""
    found, offset = [], 0
    for table, weight, alive in zip(tables, weights, live, strict=True):
        d = table.shape[1]
        if table.shape[0] >= min_rows:
            for j in range(d):
                for k in range(j + 1, d):
                    if alive[j] and alive[k]:
                        found.append((abs(pearson(table, weight, j, k)), offset + j, offset + k))
        offset += d
    found.sort(key=lambda entry: -entry[0])
    return found[: round(share * len(found))]


def split_by_budget(score: list[float], cost: list[float], budget: float) -> list[bool]:
    """Best score per cost first; what does not fit is passed over."""
    order = sorted(range(len(score)), key=lambda i: -score[i] / cost[i])
    keep, spent = [False] * len(score), 0.0
    for i in order:
        if spent + cost[i] <= budget * (1 + 1e-9):
            keep[i], spent = True, spent + cost[i]
    return keep


def budget_at(progress: float, target: float, start: float, end: float) -> float:
    if progress <= start:
        return 1.0
    if progress >= end:
        return target
    return target + (1 - target) * (1 - (progress - start) / (end - start)) ** 3


def redundancy_discount(score: list[float], pairs: list[tuple[float, int, int]]) -> list[float]:
    factor = [1.0] * len(score)
    for rho, j, k in pairs:
        weaker = j if score[j] < score[k] else k
        factor[weaker] = min(factor[weaker], 1 - rho**2)
    return [s * f for s, f in zip(score, factor, strict=True)]


class Adam:
    """Kingma and Ba, with the usual constants."""

    def __init__(self, n: int, lr: float) -> None:
        self.m, self.v, self.t, self.lr = [0.0] * n, [0.0] * n, 0, lr

    def step(self, x: list[float], grad: list[float]) -> list[float]:
        self.t += 1
        out = []
        for i, g in enumerate(grad):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            out.append(x[i] - self.lr * m / (math.sqrt(v) + 1e-8))
        return out
