"""LA3 written slowly from the text (chapter 4 of the thesis); imports nothing of tamis."""

from collections import Counter
from itertools import combinations_with_replacement

import numpy as np


def all_multisets(items, size):
    return [tuple(row) for row in combinations_with_replacement(range(items), size)]


def overlap(first, second):
    """|tau ^ tau_s|: operations in common, counted as often as they occur in both."""
    return sum((Counter(first) & Counter(second)).values())


def recall(labels, guesses, label):
    """R_y: of the samples of one label, the share that is recognised."""
    mine = [guess == label for true, guess in zip(labels, guesses, strict=True) if true == label]
    return sum(mine) / len(mine)


def reward(labels, clean, augmented, label):
    """Eq. (4.4)."""
    return recall(labels, augmented, label) - recall(labels, clean, label)


def policy(rewards, sets, count, alpha):
    """Algorithm 3 with Eq. (4.5), rewards shifted to begin at 0; every score computed anew at every step."""
    shifted = [r - min(rewards) for r in rewards]
    mean = sum(shifted) / len(shifted) or 1.0
    chosen = []
    for _ in range(count):
        best, best_score = None, -np.inf
        for place in range(len(sets)):
            if place in chosen:
                continue
            redundancy = 0.0
            if chosen:
                redundancy = sum(overlap(sets[place], sets[other]) for other in chosen) / len(chosen)
            score = shifted[place] - alpha * mean * redundancy
            if score > best_score + 1e-12:
                best, best_score = place, score
        chosen.append(best)
    return chosen


def predictor(weights, features, group, width):
    """One network of the predictor, row by row, as the text describes it: pooled operations beside the label."""
    items, labels, w1, b1, w2, b2, w3, b3, w4, b4 = weights
    pooled = np.zeros(width)
    for item, often in enumerate(features):
        pooled += often * items[item]
    hidden = np.concatenate([pooled, labels[group]])
    for w, b in ((w1, b1), (w2, b2), (w3, b3)):
        hidden = np.maximum(hidden @ w + b[0], 0)
    return (hidden @ w4 + b4[0])[0]
