"""Weighted draws, loop by loop, from the definitions. Slow on purpose; never imports tamis."""

from __future__ import annotations

import math
from itertools import permutations


def inverse_cdf(weights: list[float], point: int, unit: int) -> int:
    """The first item at which the running share of the total, in whole parts of 1 / ``unit``, exceeds ``point``."""
    total = 0.0
    for weight in weights:
        total += weight
    running = 0.0
    for item, weight in enumerate(weights):
        running += weight
        if math.floor(running / total * unit) > point:
            return item
    raise AssertionError("point must be below unit")


def ordered_sample_probability(weights: list[float], order: tuple[int, ...]) -> float:
    """Probability that successive draws without replacement give exactly ``order``."""
    left = math.fsum(weights)
    probability = 1.0
    for item in order:
        probability *= weights[item] / left
        left -= weights[item]
    return probability


def ordered_samples(weights: list[float], count: int) -> dict[tuple[int, ...], float]:
    """Every ordered sample of ``count`` items of positive weight with its probability, by enumeration."""
    items = [item for item, weight in enumerate(weights) if weight > 0]
    return {order: ordered_sample_probability(weights, order) for order in permutations(items, count)}


def inclusion_probabilities(weights: list[float], count: int) -> list[float]:
    """Probability that each item is among ``count`` successive draws without replacement."""
    included = [0.0] * len(weights)
    for order, probability in ordered_samples(weights, count).items():
        for item in order:
            included[item] += probability
    return included


def race_order(weights: list[float], uniforms: list[float]) -> list[int]:
    """Items of positive weight by arrival time E_i / w_i, with E_i = -log(1 - u_i)."""
    times = {}
    for item, weight in enumerate(weights):
        if weight > 0:
            times[item] = -math.log1p(-uniforms[item]) / weight
    return sorted(times, key=times.__getitem__)


def comb_counts(weights: list[float], count: int, offset: float) -> list[int]:
    """How many of the teeth (k + 1 - offset) / count, k = 0..count - 1, fall on each item (right end included)."""
    total = math.fsum(weights)
    counts, running = [], 0.0
    for weight in weights:
        left, running = running, running + weight
        low, high = left / total * count, running / total * count
        counts.append(sum(low < tooth + 1 - offset <= high for tooth in range(count)))
    return counts


def effective_sample_size(weights: list[float]) -> float:
    """(sum w)^2 / sum w^2."""
    return math.fsum(weights) ** 2 / math.fsum(weight * weight for weight in weights)
