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


def weighted_covariance(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    x, w = table.astype(float), weights.astype(float) / weights.sum()
    x = x - (w[:, None] * x).sum(0)
    return (w[:, None] * x).T @ x


def spectrum(covariance: np.ndarray, live: list[bool]) -> list[float]:
    """Shares of the variance along the principal axes of the live columns, largest first, then zeros."""
    kept = [j for j, alive in enumerate(live) if alive]
    values = sorted((max(v, 0.0) for v in np.linalg.eigvalsh(covariance[np.ix_(kept, kept)])), reverse=True)
    return [v / sum(values) for v in values] + [0.0] * (len(live) - len(kept))


class Controller:
    """The gates' whole training: what Alg. 5 does per step, given d task / d alpha and the tables."""

    def __init__(self, logits: list[float], widths: list[int], config: dict, keep: float, total_steps: int) -> None:
        n = len(logits)
        self.logits, self.widths, self.c, self.total = list(logits), widths, config, total_steps
        self.budget, self.t, self.looked = round(keep * n), 0, None
        self.importance, self.kept = [0.0] * n, [True] * n
        self.pairs: list[tuple[float, int, int]] = []
        self.spectra = [[1 / d] * d for d in widths]
        self.adam = Adam(n, config["gate_lr"])

    def step(self, slopes: list[float], tables: list[np.ndarray], counts: list[np.ndarray]) -> None:
        """slopes: d task / d alpha of this step; tables and counts: as they are after the optimizer's step."""
        c, phi = self.c, [sigmoid(a) for a in self.logits]
        n = len(phi)
        if c["split"] == "mean":
            penalty = polarisation_grad(phi, c["temperature"])
            for _, j, k in self.pairs:
                side = np.sign(phi[j] - phi[k])
                penalty[j] += (c["pair_temperature"] - side) / len(self.pairs)
                penalty[k] += (c["pair_temperature"] + side) / len(self.pairs)
        else:
            penalty = [c["temperature"] + (-1.0 if keep else 1.0) for keep in self.kept]
        for i in range(n):
            saved = slopes[i] / (1 - phi[i])
            self.importance[i] = c["memory"] * self.importance[i] + (1 - c["memory"]) * saved**2
        self.t += 1
        if c["split"] == "mean":
            grads = [slopes[i] + c["strength"] * penalty[i] * phi[i] * (1 - phi[i]) for i in range(n)]
            self.logits = self.adam.step(self.logits, grads)
        else:
            rate = 16.0 / max(1.0, c["closing"] * self.total)
            for i in range(n):
                slope = slopes[i] / (phi[i] * (1 - phi[i])) / c["strength"] + penalty[i]
                moved = self.logits[i] - rate * min(max(slope, -1.0), 1.0)
                self.logits[i] = min(max(moved, -12.0), 4.0)
        self._decide(tables, counts)

    def _decide(self, tables: list[np.ndarray], counts: list[np.ndarray]) -> None:
        c = self.c
        if c["split"] == "mean":
            if self.t % c["refresh_every"] == 0:
                self._look(tables, counts)
            return
        if not c["warm_up"] * self.total < self.t <= c["decide_by"] * self.total + 1:
            return
        if self.looked is None or self.t - self.looked >= c["refresh_every"]:
            self._look(tables, counts)
            self.looked = self.t
        order = redundancy_discount(self.importance, self.pairs)
        score, cost, offset = [0.0] * len(order), [1.0] * len(order), 0
        for d, shares, table in zip(self.widths, self.spectra, tables, strict=True):
            total = sum(self.importance[offset : offset + d])
            ranked = sorted(range(offset, offset + d), key=lambda i: -order[i])
            for place, i in enumerate(ranked):
                score[i] = total * shares[place]
                if place >= len(table):  # a table's rank is no larger than its rows
                    cost[i] = math.inf
            offset += d
        n = len(score)
        share = budget_at(self.t / self.total, self.budget / n, c["warm_up"], c["decide_by"])
        self.kept = split_by_budget(score, cost, share * n)

    def _look(self, tables: list[np.ndarray], counts: list[np.ndarray]) -> None:
        live, offset = [], 0
        for d in self.widths:
            live.append(np.array([logit >= 0 for logit in self.logits[offset : offset + d]]))
            offset += d
        weights = [count if count.sum() else np.ones(len(count)) for count in counts]
        self.pairs = top_pairs(tables, weights, live, self.c["pair_share"], self.c["min_rows"])
        self.spectra = [
            spectrum(weighted_covariance(table, weight), list(alive))
            for table, weight, alive in zip(tables, weights, live, strict=True)
        ]
