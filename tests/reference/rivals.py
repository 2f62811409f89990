"""The equations of the pruners of other papers, number by number, from the papers and the deviations of the docstrings.

No tamis in here.
"""

from __future__ import annotations

import math

import numpy as np


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


class Adam:
    """Kingma and Ba, one number at a time."""

    def __init__(self, start: np.ndarray, lr: float) -> None:
        self.value, self.lr, self.t = start.astype(float).copy(), lr, 0
        self.m, self.v = np.zeros_like(self.value), np.zeros_like(self.value)

    def step(self, gradient: np.ndarray) -> np.ndarray:
        self.t += 1
        for i in np.ndindex(self.value.shape):
            self.m[i] = 0.9 * self.m[i] + 0.1 * gradient[i]
            self.v[i] = 0.999 * self.v[i] + 0.001 * gradient[i] ** 2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            self.value[i] -= self.lr * m / (math.sqrt(v) + 1e-8)
        return self.value


def best_columns(scores: list[list[float]], rows: list[int], costs: list[float], budget: float, power: float):
    """Greedy: best score x cost^-power first; what does not fit is passed over; at most as many as there are rows."""
    candidates = []
    for t, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda k, row=row: (-row[k], k))
        low = min(0.0, min(min(r) for r in scores))
        candidates += [(-(row[k] - low) * costs[t] ** -power, t, k) for k in order[: rows[t]]]
    kept, left = [[False] * len(row) for row in scores], budget * (1 + 1e-9)
    for _, t, k in sorted(candidates, key=lambda c: c[0]):
        if costs[t] <= left:
            kept[t][k] = True
            left -= costs[t]
    return kept


def soft_threshold(v: float, s: float) -> float:
    """PEP: sign(V) relu(|V| - g(s))."""
    return math.copysign(max(abs(v) - sigmoid(s), 0.0), v) if v else 0.0


def largest_values(tables: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The ``count`` largest |v|, ties by number, zeros never."""
    flat = [(-abs(float(v)), t, i) for t, table in enumerate(tables) for i, v in np.ndenumerate(table) if v != 0]
    masks = [np.zeros(table.shape, dtype=bool) for table in tables]
    for _, t, i in sorted(flat)[:count]:
        masks[t][i] = True
    return masks


def deep_light_sparsity(steps: int, target: float, span: float, damping: float | None) -> float:
    """target x (1 - D^(k / 100)); without D it is 99 % of the target after ``span``."""
    d = 10 ** (math.log10(0.01) * 100 / span) if damping is None else damping
    return target * (1 - d ** (steps / 100))


def column_overlap(rows: np.ndarray) -> float:
    """HAM: mean of cos^2 over pairs of columns."""
    total, d = 0.0, rows.shape[1]
    for j in range(d):
        for k in range(j):
            a, b = rows[:, j], rows[:, k]
            total += (float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))) ** 2
    return total / (d * (d - 1) / 2)


def straight_through_gradient(gradient: np.ndarray, mu: np.ndarray, tau: float) -> np.ndarray:
    """HAM: that of the clipped identity."""
    return np.array([g if abs(m - tau) <= 1 else 0.0 for g, m in zip(gradient, mu, strict=True)])


def gumbel_softmax(logits: list[float], noise: list[float], tau: float) -> list[float]:
    """AutoDim, AutoField: softmax((log p + G) / tau), p = softmax of the logits."""
    total = sum(math.exp(x) for x in logits)
    raised = [math.exp((math.log(math.exp(x) / total) + g) / tau) for x, g in zip(logits, noise, strict=True)]
    return [x / sum(raised) for x in raised]


def auto_dim_factor(p: list[float], widths: list[int], width: int) -> list[float]:
    """AutoDim with shared weights: a column is there with the candidates that have it."""
    return [sum(p[c] for c in range(len(widths)) if j < widths[c]) for j in range(width)]


def lpfs(x: float, epsilon: float, plus: bool, alpha: float, tau: float) -> float:
    """The gate; LPFS++ has eps in both branches, not eps^2."""
    base = x * x / (x * x + epsilon)
    if not plus:
        return base
    return math.copysign(base, x) + alpha * epsilon ** (1 / tau) * math.atan(x)


def lpfs_slope(x: float, epsilon: float, alpha: float, tau: float) -> float:
    """The derivative that stands on the slides for LPFS++."""
    return 2 * abs(x) * epsilon / (x * x + epsilon) ** 2 + alpha * epsilon ** (1 / tau) / (x * x + 1)


def proximal(x: float, threshold: float) -> float:
    return math.copysign(max(abs(x) - threshold, 0.0), x)


def opt_fs_gate(g: float, start: float, progress: float, gamma: float) -> float:
    """sigmoid(g tau) / sigmoid(g0), tau = gamma^(t / T)."""
    return sigmoid(g * gamma**progress) / sigmoid(start)


def long_tailed_slope(x: float) -> float:
    """OptEmbed: the surrogate of the step."""
    return 2 - 4 * abs(x) if abs(x) < 0.4 else 0.4 if abs(x) <= 1 else 0.0


def opt_embed_row(row: np.ndarray, threshold: float, prefix: int) -> np.ndarray:
    """OptEmbed: a row whose L1 norm is above the threshold, its first ``prefix`` columns."""
    there = sum(abs(float(v)) for v in row) > threshold
    return np.array([v if there and j < prefix else 0.0 for j, v in enumerate(row)])


def mixed_dimensions(rows: list[int], width: int, item: int, budget: float, alpha: float, project: bool) -> list[int]:
    """MDE: the widths of the largest lambda of a fine grid whose tables and projections fit."""
    best: list[int] = []
    for scale in np.linspace(0, width * max(rows) ** alpha, 200_001):
        dims = [max(1, min(width, math.floor(scale * n**-alpha + 1e-9))) for n in rows]
        spent = sum(d * item * (n + (width if project and d < width else 0)) for d, n in zip(dims, rows, strict=True))
        if spent <= budget * (1 + 1e-9):
            best = dims
    return best
