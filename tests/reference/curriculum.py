"""The reinforced curriculum's equations, loop by loop, written from the thesis (chapter 3); never imports tamis."""

from __future__ import annotations

import math
from collections import Counter


def ngram_frequency(sentences: list[list], n: int) -> list[list[float]]:
    """F^(n)(s) of every sentence, Eq. (3.8) and (3.9)."""
    grams = [[tuple(s[i : i + n]) for i in range(len(s) - n + 1)] for s in sentences]
    counts = Counter(g for sentence in grams for g in sentence)
    total = sum(counts.values())
    return [[counts[g] / total for g in sentence] for sentence in grams]


def tagging_values(sentences: list[list], tags: list[list]) -> list[list[float]]:
    """V(s) of every sentence, Eq. (3.10) and (3.11)."""
    words = Counter(w for s in sentences for w in s)
    tagged = Counter((w, t) for s, row in zip(sentences, tags, strict=True) for w, t in zip(s, row, strict=True))
    return [
        [tagged[(w, t)] / words[w] for w, t in zip(s, row, strict=True)] for s, row in zip(sentences, tags, strict=True)
    ]


def statistics(values: list[float]) -> list[float]:
    """Mean, standard deviation, minimum, maximum; zeros for an empty row."""
    if not values:
        return [0.0, 0.0, 0.0, 0.0]
    mean = sum(values) / len(values)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return [mean, std, min(values), max(values)]


def log_likelihood(logits: list[list[float]], labels: list[int], ignored: int = -100) -> tuple[float, int]:
    """log p(y|x), Eq. (3.7), and the number of target tokens of one sample."""
    total, count = 0.0, 0
    for row, label in zip(logits, labels, strict=True):
        if label == ignored:
            continue
        top = max(row)
        total += row[label] - top - math.log(sum(math.exp(x - top) for x in row))
        count += 1
    return total, count


def linear(rows: list[list[float]], bias: list[float], x: list[float]) -> list[float]:
    return [b + sum(w * v for w, v in zip(row, x, strict=True)) for row, b in zip(rows, bias, strict=True)]


def actor_score(state: dict, groups: list[list[float]]) -> float:
    """One sample's score: each group through its own layer, joined, then two ReLU layers and one score (fig. 3.3)."""
    features: list[float] = []
    for number, group in enumerate(groups):
        out = linear(state[f"features.layers.{number}.weight"], state[f"features.layers.{number}.bias"], group)
        features += [v if v > 0 else 0.01 * v for v in out]
    hidden = features
    for layer in (0, 1):
        out = linear(state[f"actor.layers.{layer}.weight"], state[f"actor.layers.{layer}.bias"], hidden)
        hidden = [max(v, 0.0) for v in out]
    return linear(state["actor.layers.2.weight"], state["actor.layers.2.bias"], hidden)[0]


def best_of(scores: list[float], pools: list[list[int]]) -> list[int]:
    """The candidate of each pool with the highest score; the first of equals."""
    chosen = []
    for pool in pools:
        best = pool[0]
        for index in pool[1:]:
            if scores[index] > scores[best]:
                best = index
        chosen.append(best)
    return chosen


def competence(t: float, total: float, initial: float) -> float:
    """c(t) of Platanios et al. (2019), the square-root form."""
    return min(1.0, math.sqrt(t * (1 - initial**2) / total + initial**2))
