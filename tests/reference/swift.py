"""Swift Sampler, section 3.2 and Eq. (11) of the paper, sample by sample. Slow on purpose; never imports tamis."""

from __future__ import annotations

import math


def cdf(values, u):
    """Eq. (7): share of the values that are <= u."""
    return sum(1 for value in values if value <= u) / len(values)


def big_g(features, c):
    """Eq. (6) with Eq. (7): G of every sample; ``features`` is a list of columns."""
    n = len(features[0])
    return [sum(c[i] * cdf(column, column[k]) for i, column in enumerate(features)) for k in range(n)]


def cgf(g, grad, u):
    """Eq. (10): share of the gradient norm at samples with G <= u."""
    return sum(norm for value, norm in zip(g, grad, strict=True) if value <= u) / sum(grad)


def piecewise(t, e, v):
    """H: ``e`` holds e_0 = 0 .. e_S = 1; where knots coincide, the right one counts."""
    for s in reversed(range(len(e) - 1)):
        if t >= e[s]:
            width = e[s + 1] - e[s]
            return v[s + 1] if width == 0 else v[s] + (t - e[s]) / width * (v[s + 1] - v[s])
    raise ValueError(t)


def probabilities(features, grad, c, knots, heights, *, transform="cgf"):
    """tau = H(T(G)) of every sample, normalised to sum 1; uniform where it is zero everywhere."""
    g = big_g(features, c)
    mass = grad if transform == "cgf" and sum(grad) > 0 else [1.0] * len(g)
    e = [0.0, *knots, 1.0]
    tau = [piecewise(cgf(g, mass, u), e, heights) for u in g]
    total = sum(tau)
    return [value / total for value in tau] if total > 0 else [1.0 / len(tau)] * len(tau)


def softmax(logits):
    top = max(logits)
    exps = [math.exp(value - top) for value in logits]
    return [value / sum(exps) for value in exps]


def renormalised_entropy(logits, target):
    """Eq. (11), as it is written."""
    p = softmax(logits)
    rest = sum(p[j] for j in range(len(p)) if j != target)
    total = 0.0
    for j in range(len(p)):
        if j != target:
            q = p[j] / rest
            total -= q * math.log(q)
    return total


def last_layer_gradient_norm(logits, target, hidden):
    """Norm of the gradient with respect to W and b of the last layer, entry by entry: (p_j - y_j) h_d and p_j - y_j."""
    p = softmax(logits)
    total = 0.0
    for j, p_j in enumerate(p):
        error = p_j - (1.0 if j == target else 0.0)
        total += error**2 + sum((error * h) ** 2 for h in hidden)
    return math.sqrt(total)
