"""Search-Map-Search by hand: combination costs, the best of all, the mapping's loss. Slow on purpose; no tamis."""

from __future__ import annotations

import itertools
import math


def mean(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def cross_entropy(logits, label):
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[label]


def mean_logit_cost(logits, label, frames):
    """Eq. (5.1) for a model that averages the logits of the frames."""
    return cross_entropy(mean([logits[i] for i in frames]), label)


def mlp_cost(features, first, second, label, frames, activation):
    """Eq. (5.1) for a two-layer head on the mean feature."""
    h = mean([features[i] for i in frames])
    hidden = [sum(w * x for w, x in zip(row, h, strict=True)) + b for row, b in zip(*first, strict=True)]
    act = {"relu": lambda z: max(z, 0.0), "tanh": math.tanh, "none": lambda z: z}[activation]
    hidden = [act(z) for z in hidden]
    logits = [sum(w * x for w, x in zip(row, hidden, strict=True)) + b for row, b in zip(*second, strict=True)]
    return cross_entropy(logits, label)


def cosine_cost(features, target, frames):
    """Eq. (5.5): 1 - cosine of the mean feature and the predicted one; 1 for a vector without direction."""
    h = mean([features[i] for i in frames])
    dot = sum(a * b for a, b in zip(h, target, strict=True))
    norm = math.sqrt(sum(a * a for a in h)) * math.sqrt(sum(b * b for b in target))
    return 1.0 - dot / norm if norm > 1e-12 else 1.0


def best_of_all(cost, m, n):
    """The least cost over all multisets of n of m frames."""
    return min(cost(frames) for frames in itertools.combinations_with_replacement(range(m), n))


def clips(m, length):
    """Frame numbers of consecutive clips of ``length`` frames; the last may be shorter."""
    return [list(range(first, min(first + length, m))) for first in range(0, m, length)]
