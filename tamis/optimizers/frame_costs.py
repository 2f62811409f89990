"""Guided Local Search for frames with a label: fast objectives of stage 1, and a certificate.

"Search-Map-Search: A Frame Selection Paradigm for Action Recognition", CVPR 2023, Eq. (5.1). The search itself, its
symbols and what the paper leaves open are in `guided_local_search` beside it (selecting frames needs it too). Here are
costs L(M(frames), y) for models M = head(mean of what each frame gives), for which all replacements of a position are
one matrix product.

======= ============= ===============================================================
symbol  here          meaning
======= ============= ===============================================================
l_i     ``logits``    logits of frame i, [m, C]; the model averages them
h_i     ``features``  feature of frame i, [m, d]; the model averages them before a head
y       ``label``     class, in [0, C)
w       ``weights``   share of each frame, in the simplex
======= ============= ===============================================================

For mean logits the cross-entropy is convex in w, so `lower_bound` certifies how far a combination is from the best.
All replacements are scored in the factored form, sum_c exp(base_c) exp(l_jc / n) as one GEMM of factors <= 1. What it
flushes to zero is below C 1e-307, so a sum of at least `TRUSTED` is exact to rounding; a position with a smaller one
(logits that range over hundreds) is computed again by log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tamis.core.checks import check_choice, check_int
from tamis.optimizers.guided_local_search import (
    CosineObjective,
    FrameObjective,
    GLSConfig,
    GLSResult,
    check_features,
    guided_local_search,
)

__all__ = [
    "CallableObjective",
    "CosineObjective",
    "FrameObjective",
    "GLSConfig",
    "GLSResult",
    "MeanLogitObjective",
    "MlpObjective",
    "guided_local_search",
    "head_objective",
    "lower_bound",
]

TRUSTED = 1e-280  # float64 holds 1e-307 at full precision
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Identity: "none"}


class MeanLogitObjective(FrameObjective):
    """Cross-entropy of the mean of per-frame logits (a linear head on features, or any model of single frames).

    Args:
        logits: finite [m, C].
        label: y.

    Raises:
        ValueError: shapes, or a value that is not finite.
    """

    def __init__(self, logits: np.ndarray, label: int) -> None:
        self.logits = check_features(logits)
        self.size, classes = self.logits.shape
        self.label = check_int("label", label, low=0, high=classes - 1)
        self._prepared_for = 0

    def costs(self, frames: np.ndarray) -> np.ndarray:
        return cross_entropy(self.logits[np.atleast_2d(frames)].mean(1), self.label)

    def swaps(self, chosen: np.ndarray, positions: np.ndarray, frames: np.ndarray | None = None) -> np.ndarray:
        self._prepare(len(chosen))
        every = slice(None) if frames is None else frames
        base = self._scaled[chosen].sum(0) - self._scaled[chosen[positions]]
        top = base.max(1, keepdims=True)
        total = np.exp(base - top) @ self._exps[:, every]
        again = np.flatnonzero(total.min(1) < TRUSTED)
        total[again] = 1.0
        costs: np.ndarray = np.log(total) + top + self._tops[every]
        if len(again):
            costs[again] = _log_sum_exp_single(base[again, None, :] + self._scaled[every])
        costs -= base[:, self.label, None] + self._scaled[every, self.label]
        return costs

    def _prepare(self, n: int) -> None:
        """Per-frame terms for combinations of ``n``, kept until another n is asked for."""
        if self._prepared_for != n:
            self._scaled = self.logits / n
            self._tops = self._scaled.max(1)
            self._exps = np.ascontiguousarray(np.exp(self._scaled - self._tops[:, None]).T)
            self._prepared_for = n


class MlpObjective(FrameObjective):
    """Cross-entropy of a two-layer head on the mean feature: the first layer is applied once to each frame.

    Args:
        features: finite [m, d]; float32 stays float32 (twice as fast, costs to about 1e-6).
        first: weight [h, d] and bias [h].
        second: weight [C, h] and bias [C].
        label: y.
        activation: ``"relu"``, ``"tanh"`` or ``"none"``.

    Raises:
        ValueError: shapes that do not fit, or a value that is not finite.
    """

    def __init__(
        self,
        features: np.ndarray,
        first: tuple[np.ndarray, np.ndarray],
        second: tuple[np.ndarray, np.ndarray],
        label: int,
        *,
        activation: str = "relu",
    ) -> None:
        kind = np.float32 if np.asarray(features).dtype == np.float32 else np.float64
        features = check_features(features)
        if first[0].shape[1:] != features.shape[1:] or second[0].shape[1:] != first[0].shape[:1]:
            raise ValueError(
                f"head: weights {first[0].shape} and {second[0].shape} do not fit features [m, {features.shape[1]}]"
            )
        self.size = len(features)
        self.label = check_int("label", label, low=0, high=len(second[0]) - 1)
        self.activation = check_choice("activation", activation, ("relu", "tanh", "none"))
        self._hidden = (features @ first[0].T + first[1]).astype(kind)  # the bias survives the mean
        self._weight, self._bias = np.ascontiguousarray(second[0].T, dtype=kind), second[1].astype(kind)

    def costs(self, frames: np.ndarray) -> np.ndarray:
        frames = np.atleast_2d(frames)
        return self._head(self._hidden[frames].mean(1)).astype(np.float64)

    def swaps(self, chosen: np.ndarray, positions: np.ndarray, frames: np.ndarray | None = None) -> np.ndarray:
        kept = self._hidden[chosen].sum(0) - self._hidden[chosen[positions]]
        new = self._hidden if frames is None else self._hidden[frames]
        mean = (kept[:, None, :] + new) * self._hidden.dtype.type(1.0 / len(chosen))
        return self._head(mean.reshape(-1, mean.shape[-1])).reshape(mean.shape[:2]).astype(np.float64)

    def _head(self, hidden: np.ndarray) -> np.ndarray:
        if self.activation == "relu":
            np.maximum(hidden, 0, out=hidden)
        elif self.activation == "tanh":
            np.tanh(hidden, out=hidden)
        return cross_entropy(hidden @ self._weight + self._bias, self.label)


class CallableObjective(FrameObjective):
    """Any batch of combinations through a user's function, e.g. a whole video model.

    Args:
        score: int [B, n] -> costs [B], finite.
        size: m, number of frames.
        batch_size: most combinations in one call.
    """

    def __init__(self, score: Callable[[np.ndarray], np.ndarray], size: int, *, batch_size: int = 1024) -> None:
        self.score, self.size = score, check_int("size", size, low=1)
        self.batch_size = check_int("batch_size", batch_size, low=1)

    def costs(self, frames: np.ndarray) -> np.ndarray:
        frames = np.atleast_2d(frames)
        starts = range(0, len(frames), self.batch_size)
        parts = [np.asarray(self.score(frames[i : i + self.batch_size]), dtype=np.float64) for i in starts]
        costs = np.concatenate(parts)
        if costs.shape != (len(frames),):
            raise ValueError(f"score: must give one cost a combination [{len(frames)}], got {list(costs.shape)}")
        return costs


def head_objective(head: nn.Module, features: np.ndarray, label: int) -> FrameObjective:
    """The fastest objective for ``head`` applied to the mean feature: linear, two layers, or anything.

    Args:
        head: [B, d] -> logits [B, C], in eval mode; `Identity` if the features are per-frame logits.
        features: [m, d].
        label: y.
    """
    layers = [layer for layer in (head if isinstance(head, nn.Sequential) else [head]) if not _passes(layer)]
    if not layers:
        return MeanLogitObjective(features, label)
    if len(layers) == 1 and isinstance(layers[0], nn.Linear):
        weight, bias = _weights(layers[0])
        return MeanLogitObjective(check_features(features) @ weight.T + bias, label)
    if (
        len(layers) == 3
        and isinstance(layers[0], nn.Linear)
        and isinstance(layers[2], nn.Linear)
        and type(layers[1]) in _ACTIVATIONS
    ):
        activation = _ACTIVATIONS[type(layers[1])]
        return MlpObjective(features, _weights(layers[0]), _weights(layers[2]), label, activation=activation)
    parameter = next(head.parameters(), torch.zeros(0))
    tensor = torch.from_numpy(check_features(features)).to(parameter)

    def score(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = head(tensor[torch.from_numpy(frames)].mean(1))
        return cross_entropy(logits.double().cpu().numpy(), label)

    return CallableObjective(score, len(features))


def lower_bound(
    objective: MeanLogitObjective, start: np.ndarray | None = None, *, iterations: int = 500, tolerance: float = 1e-3
) -> float:
    """A cost that no combination of frames goes below, whatever n: pairwise Frank-Wolfe over the simplex.

    S. Lacoste-Julien, M. Jaggi, "On the global linear convergence of Frank-Wolfe optimization variants", 2015.
    f(v) >= f(w) + min_i grad_i - grad . w for every v, since f is convex in the weights of the frames.

    Args:
        objective: cross-entropy of mean logits.
        start: int [n], frames to start from (a good combination saves iterations).
        iterations: most steps.
        tolerance: stop when the bound is this close (relative) to the weights' own cost.
    """
    logits, label = objective.logits, objective.label
    if start is None:
        start = np.array([int(objective.costs(np.arange(objective.size)[:, None]).argmin())])
    weights = np.bincount(start, minlength=objective.size) / len(start)
    target = np.zeros(logits.shape[1])
    target[label] = 1.0
    bound = -np.inf
    for _ in range(iterations):
        mean = weights @ logits
        p = np.exp(mean - log_sum_exp(mean))
        gradient = logits @ (p - target)
        best = int(gradient.argmin())
        cost = float(cross_entropy(mean[None], label)[0])
        bound = max(bound, cost + float(gradient[best] - gradient @ weights))
        if cost - bound <= tolerance * max(abs(cost), 1e-12):
            break
        active = np.flatnonzero(weights)
        worst = int(active[gradient[active].argmax()])
        step = _line_search(mean, logits[best] - logits[worst], label, float(weights[worst]))
        weights[best] += step
        weights[worst] = 0.0 if step >= weights[worst] else weights[worst] - step
    return bound


def _line_search(mean: np.ndarray, direction: np.ndarray, label: int, most: float) -> float:
    """The step in [0, most] of least cross-entropy of ``mean + step * direction`` (convex: bisect the slope)."""

    def slope(step: float) -> float:
        moved = mean + step * direction
        return float(np.exp(moved - log_sum_exp(moved)) @ direction - direction[label])

    if slope(most) <= 0:
        return most
    low, high = 0.0, most
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return low


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """The logarithm of sum_c exp(logits), over the last axis."""
    # scipy.special.logsumexp takes 5 to 100 times as long on arrays of these sizes
    top = logits.max(-1, keepdims=True)
    shifted = logits - top
    out: np.ndarray = np.log(np.exp(shifted, out=shifted).sum(-1)) + top[..., 0]
    return out


def _log_sum_exp_single(logits: np.ndarray) -> np.ndarray:
    """As `log_sum_exp`, to about 1e-7 and in half the time: the exponentials, at most 1, are single precision."""
    top = logits.max(-1, keepdims=True)
    logits -= top
    exps = logits.astype(np.float32)
    np.exp(exps, out=exps)
    out: np.ndarray = np.log(exps @ np.ones(exps.shape[-1], np.float32)) + top[..., 0]
    return out


def cross_entropy(logits: np.ndarray, label: int) -> np.ndarray:
    """-log softmax(logits)[label].

    Args:
        logits: [B, C].
        label: in [0, C).

    Returns:
        [B], >= 0.
    """
    out: np.ndarray = log_sum_exp(logits) - logits[:, label]
    return out


def _passes(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Identity, nn.Dropout))


def _weights(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    weight = layer.weight.detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu().numpy()
    return weight, bias
