"""Guided Local Search over multisets of frames, and the cosine objective of stage 3.

C. Voudouris, E. Tsang, A. Alsheddy, "Guided Local Search", Handbook of Metaheuristics, 2010; used by M. Zhao et al.,
"Search-Map-Search: A Frame Selection Paradigm for Action Recognition", CVPR 2023 (chapter 5 of M. Zhao's thesis,
Eq. (5.1) and (5.5)). The objectives that know a label are in `tamis.optimizers.frame_costs`; this half
is what selecting frames of an unlabelled video needs.

====== ================= ==========================================================================
symbol here              meaning
====== ================= ==========================================================================
m, n   ``size``, ``n``   frames of the video; frames of a combination (a multiset: repeats allowed)
g      the objective     cost of a combination
p_i    ``penalties``     int [m], how often frame i was penalised
x_i    (a count)         how often frame i is in the combination
c_i    ``frame_costs``   [m], the cost of frame i alone (repeated n times)
lambda ``weight``        a g(first local optimum) / n
h      (``level``)       g + lambda sum p_i x_i, what descent sees
====== ================= ==========================================================================

**Unstated** in the thesis (its appendix is not available), chosen here: neighbours differ in one position; the start is
the cheapest single frame n times; a step scores all replacements of one position and takes the best, positions in turn
(``moves="sweep"``: all n m replacements, the best of them); at a local optimum of h the present frames of largest
utility c_i / (1 + p_i) are penalised; a = 0.5. Small spaces are enumerated. Of equally good combinations the one with
fewer repeats wins, then the one with earlier frames.

**Deviation** from textbook GLS: a penalty counts once for each time the frame is in the combination, not once for its
presence. By presence a combination of repeats is cheap, the search settles on repeated frames, and 1 in 20 to 1 in 4
small cases (n = 3 of m = 10; cosine, tanh head) are missed at any budget; by count none was.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice, product
from typing import Any

import numpy as np

from tamis.core.checks import check_choice, check_int, check_range

__all__ = ["CosineObjective", "FrameObjective", "GLSConfig", "GLSResult", "guided_local_search"]

_TIE = 1e-10  # relative; costs closer than this are equal
_BATCH = 4096  # combinations scored at once when enumerating


class FrameObjective(ABC):
    """The cost of combinations of frames of one video, lower is better.

    Attributes:
        size: m, number of frames.
    """

    size: int

    @abstractmethod
    def costs(self, frames: np.ndarray) -> np.ndarray:
        """Cost of each combination: int [B, n] -> float64 [B], from scratch."""

    def swaps(self, chosen: np.ndarray, positions: np.ndarray, frames: np.ndarray | None = None) -> np.ndarray:
        """Cost of ``chosen`` with one position replaced.

        Args:
            chosen: int [n].
            positions: int [p], the positions to replace, one at a time.
            frames: int [f], the replacements; None: all m.

        Returns:
            float64 [p, f].
        """
        frames = np.arange(self.size) if frames is None else frames
        batch = np.tile(chosen, (len(positions), len(frames), 1))
        batch[np.arange(len(positions)), :, positions] = frames
        return self.costs(batch.reshape(-1, len(chosen))).reshape(len(positions), len(frames))


class CosineObjective(FrameObjective):
    """1 - cosine between the mean feature of the frames and a target, Eq. (5.5); 1 where a vector is zero.

    Args:
        features: finite [m, d].
        target: finite [d].

    Raises:
        ValueError: other shapes, or a value that is not finite.
    """

    def __init__(self, features: np.ndarray, target: np.ndarray) -> None:
        features, target = check_features(features), np.asarray(target, dtype=np.float64)
        if target.shape != features.shape[1:] or not np.isfinite(target).all():
            raise ValueError(f"target={list(target.shape)}: must be finite and [{features.shape[1]}]")
        self.size = len(features)
        self.gram = features @ features.T
        norm = float(np.linalg.norm(target))
        self.along = features @ (target / norm if norm > 0 else target)
        self._square = np.diagonal(self.gram).copy()
        # a sum of n frames whose norm is rounding noise has no direction
        self._zero = 1e-14 * float(self._square.max(initial=0.0))

    def costs(self, frames: np.ndarray) -> np.ndarray:
        frames = np.atleast_2d(frames)
        square = self.gram[frames[:, :, None], frames[:, None, :]].sum((1, 2))
        return self._distance(self.along[frames].sum(1), square)

    def swaps(self, chosen: np.ndarray, positions: np.ndarray, frames: np.ndarray | None = None) -> np.ndarray:
        pull = self.gram[chosen].sum(0)  # f_j . s for every frame j
        out = chosen[positions]
        every = slice(None) if frames is None else frames
        rest = pull[chosen].sum() + self._square[out] - 2 * pull[out]  # |s - f_out|^2
        cross = pull[every] - self.gram[out][:, every]
        square = rest[:, None] + self._square[every] + 2 * cross
        dot = (self.along[chosen].sum() - self.along[out])[:, None] + self.along[every]
        return self._distance(dot, square)

    def _distance(self, dot: np.ndarray, square: np.ndarray) -> np.ndarray:
        known = square > self._zero
        cosine: np.ndarray = np.where(known, dot, 0.0) / np.sqrt(np.where(known, square, 1.0))
        return 1.0 - cosine


@dataclass(frozen=True, kw_only=True)
class GLSConfig:
    """How long and how to search.

    Attributes:
        budget: most evaluations of the objective, >= 1; a hard limit.
        alpha: a, weight of the penalties (0.1 to 1 is usual); 0 leaves plain descent.
        moves: ``"position"`` (few evaluations a step) or ``"sweep"`` (steepest descent).
        enumerate_small: try every combination where the budget allows it.
    """

    budget: int = 3000
    alpha: float = 0.5
    moves: str = "position"
    enumerate_small: bool = True

    def __post_init__(self) -> None:
        check_int("budget", self.budget, low=1)
        check_range("alpha", self.alpha, low=0.0)
        check_choice("moves", self.moves, ("position", "sweep"))


@dataclass(frozen=True)
class GLSResult:
    """The best combination seen.

    Attributes:
        frames: int64 [n], sorted.
        cost: its cost, computed from scratch.
        evaluations: what the search spent.
        exact: every combination was tried.
        history: (evaluations, best cost) whenever the best changed.
    """

    frames: np.ndarray
    cost: float
    evaluations: int
    exact: bool
    history: tuple[tuple[int, float], ...]


def guided_local_search(
    objective: FrameObjective,
    n: int,
    *,
    config: GLSConfig | None = None,
    start: np.ndarray | None = None,
    frame_costs: np.ndarray | None = None,
    allowed: Sequence[np.ndarray] | None = None,
) -> GLSResult:
    """Search the multiset of ``n`` frames of least cost. Deterministic; never worse than its start.

    Args:
        objective: the cost.
        n: frames to choose, >= 1.
        config: the budget and its use.
        start: int [n]; default: the cheapest frame (of those allowed) at each position.
        frame_costs: [m], the c_i if they are known (else m evaluations).
        allowed: for each position the frames it may take; default: all.

    Raises:
        ValueError: the budget does not cover the frames' own costs, a start or ``allowed`` is out of range, or a cost
            is not finite.
    """
    config, size = config or GLSConfig(), objective.size
    check_int("n", n, low=1)
    choices = _choices(allowed, n, size)
    first = None if start is None else _checked_start(start, choices, n, size)
    count = math.comb(size + n - 1, n) if allowed is None else math.prod(len(c) for c in choices or ())
    if config.enumerate_small and count <= config.budget:
        return _enumerate(objective, n, choices)
    search = _Search(objective, n, config, choices)
    if frame_costs is None:
        if config.budget <= size:
            raise ValueError(f"budget={config.budget}: must be > {size}, one evaluation a frame; or give frame_costs")
        frame_costs = objective.costs(np.repeat(np.arange(size)[:, None], n, axis=1))
        search.spent += size
    frame_costs = np.asarray(frame_costs, dtype=np.float64)
    if frame_costs.shape != (size,) or not np.isfinite(frame_costs).all():
        raise ValueError(f"frame_costs: must be finite and [{size}]")
    if first is None:
        cheapest = (lambda c: c[int(np.argmin(frame_costs[c]))]) if choices else None
        first = np.array([cheapest(c) for c in choices]) if cheapest and choices else np.full(n, frame_costs.argmin())
    return search.run(first, frame_costs)


class _Search:
    """One run: the combination, its penalties, the best so far and what was spent."""

    def __init__(self, objective: FrameObjective, n: int, config: GLSConfig, choices: list[np.ndarray] | None) -> None:
        self.objective, self.n, self.config, self.choices = objective, n, config, choices
        self.penalties = np.zeros(objective.size)
        self.spent, self.weight = 0, 0.0
        self.history: list[tuple[int, float]] = []

    def run(self, first: np.ndarray, frame_costs: np.ndarray) -> GLSResult:
        self.chosen = first.astype(np.int64)
        self.cost = float(self.objective.costs(self.chosen[None])[0])
        self.spent += 1
        start, start_cost = self.chosen.tolist(), self.cost
        self.best, self.best_cost = start, math.inf
        self._remember(start, start_cost)
        worth = frame_costs - min(0.0, float(frame_costs.min()))
        while self._descend():
            present = np.unique(self.chosen)
            if self.weight == 0.0:
                self.weight = self.config.alpha * abs(self.cost) / self.n
            if self.weight == 0.0:  # a = 0, or the cost is 0
                break
            utility = worth[present] / (1.0 + self.penalties[present])
            self.penalties[present[utility == utility.max()]] += 1
        cost = float(self.objective.costs(np.array([self.best]))[0])
        worse = cost > start_cost + _slack(start_cost)  # rounding in the increments, nothing else
        frames, cost = (start, start_cost) if worse else (self.best, cost)
        return GLSResult(np.sort(frames), cost, self.spent, False, tuple(self.history))

    def _descend(self) -> bool:
        """Go down to a local optimum of h; False if the budget ended first."""
        quiet = 0  # positions in turn that found nothing
        position = 0
        while quiet < self.n:
            if self.config.moves == "sweep":
                positions, needed = np.unique(self.chosen, return_index=True)[1], self.n
            else:
                positions, needed = np.array([position % self.n]), 1
            price = sum(self._width(int(k)) for k in positions)
            if self.spent + price > self.config.budget:
                return False
            self.spent += price
            moved = self._step(positions)
            quiet = 0 if moved else quiet + needed
            position += 1
        return True

    def _width(self, position: int) -> int:
        return self.objective.size if self.choices is None else len(self.choices[position])

    def _step(self, positions: np.ndarray) -> bool:
        """Score all replacements at ``positions``, move to the best if it is better; True if moved."""
        move = (math.inf, 0, 0, math.inf)  # augmented cost, position, frame, cost
        rows = self.objective.swaps(self.chosen, positions) if self.choices is None else None
        for i, position in enumerate(positions.tolist()):
            frames = None if self.choices is None else self.choices[position]
            row = rows[i] if rows is not None else self.objective.swaps(self.chosen, positions[i : i + 1], frames)[0]
            if not math.isfinite(row.sum()):
                raise ValueError("objective: gave a cost that is not finite; check its features")
            rest = self.chosen.tolist()
            del rest[position]
            pick, frame = _pick(row, frames, rest)
            self._remember([*rest, frame], float(row[pick]))
            level = row
            if self.weight:
                added = self.penalties if frames is None else self.penalties[frames]
                level = row + self.weight * (self.penalties[rest].sum() + added)
                pick, frame = _pick(level, frames, rest)
            if level[pick] < move[0]:
                move = (float(level[pick]), position, frame, float(row[pick]))
        level_of, at, frame, cost = move
        candidate = self.chosen.copy()
        candidate[at] = frame
        if not _better(level_of, candidate.tolist(), self._augmented(), self.chosen.tolist()):
            return False
        self.chosen, self.cost = candidate, cost
        return True

    def _augmented(self) -> float:
        return self.cost + self.weight * float(self.penalties[self.chosen].sum())

    def _remember(self, frames: list[int], cost: float) -> None:
        if _better(cost, frames, self.best_cost, self.best):
            if cost < self.best_cost:
                self.history.append((self.spent, cost))
            self.best, self.best_cost = frames, min(cost, self.best_cost)


def _pick(costs: np.ndarray, frames: np.ndarray | None, rest: list[int]) -> tuple[int, int]:
    """Index into ``costs`` and frame of the least cost; of ties a frame not in ``rest``, then the earliest."""
    least = float(costs.min())
    ties: list[int] = (costs <= least + _slack(least)).nonzero()[0].tolist()
    names = ties if frames is None else frames[ties].tolist()
    first = 0 if len(ties) == 1 else min(range(len(ties)), key=lambda i: (names[i] in rest, names[i]))
    return ties[first], names[first]


def _slack(cost: float) -> float:
    return _TIE * max(1.0, abs(cost))


def _rank(frames: list[int]) -> tuple[int, int]:
    """What decides between equal costs: repeats, then how late the frames are."""
    return len(frames) - len(set(frames)), sum(frames)


def _better(cost: float, frames: list[int], old_cost: float, old: list[int]) -> bool:
    """Lower cost, or the same within rounding and a lower rank."""
    if math.isinf(old_cost):
        return True
    slack = _slack(old_cost)
    return cost < old_cost - slack or (cost <= old_cost + slack and _rank(frames) < _rank(old))


def _enumerate(objective: FrameObjective, n: int, choices: list[np.ndarray] | None) -> GLSResult:
    """Every combination, in batches."""
    every: Iterator[Any] = product(*choices) if choices else combinations_with_replacement(range(objective.size), n)
    best, frames, spent = math.inf, [0] * n, 0
    history: list[tuple[int, float]] = []
    while batch := list(islice(every, _BATCH)):
        combos = np.array(batch, dtype=np.int64)
        costs = objective.costs(combos)
        if not np.isfinite(costs).all():
            raise ValueError("objective: gave a cost that is not finite; check its features")
        spent += len(combos)
        least = float(costs.min())
        for i in np.flatnonzero(costs <= least + _slack(least)):
            if _better(float(costs[i]), list(batch[i]), best, frames):
                best, frames = float(costs[i]), list(batch[i])
        history.append((spent, best))
    return GLSResult(np.sort(frames), best, spent, True, tuple(history))


def check_features(features: np.ndarray) -> np.ndarray:
    """``features`` as float64 [m, d], finite, m >= 1, or `ValueError`."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features={list(features.shape)}: must be [m, d] with m >= 1")
    if not np.isfinite(features).all():
        raise ValueError(f"features: frame {int(np.argmin(np.isfinite(features).all(1)))} is not finite")
    return features


def _choices(allowed: Sequence[np.ndarray] | None, n: int, size: int) -> list[np.ndarray] | None:
    if allowed is None:
        return None
    choices = [np.unique(np.asarray(frames, dtype=np.int64)) for frames in allowed]
    if len(choices) != n or any(not len(c) or c[0] < 0 or c[-1] >= size for c in choices):
        raise ValueError(f"allowed: must hold, for each of the {n} positions, frames in [0, {size})")
    return choices


def _checked_start(start: np.ndarray, choices: list[np.ndarray] | None, n: int, size: int) -> np.ndarray:
    start = np.asarray(start)
    if start.shape != (n,) or start.dtype.kind not in "iu":
        raise ValueError(f"start={start!r}: must be {n} frame numbers")
    every = choices or [np.arange(size)] * n
    if any(frame not in c for frame, c in zip(start, every, strict=True)):
        raise ValueError(f"start={start.tolist()}: must be frames in [0, {size}), and allowed at their positions")
    return start.astype(np.int64)
