"""The models of single frames that Search-Map-Search asks in stage 1, fitted on other videos than it asks about.

M. Zhao's thesis, chapter 5: M gives logits for a frame, averaged over the chosen frames (TSN).

**Deviations**: models are out of fold, and their logits are weighted by the time of the frame (see `frames`); where a
label shows at about the same time in all clips, the next round's models are fitted on frames drawn by these weights,
because frames drawn evenly mostly tell nothing.

**Unstated** in the thesis: M, but for its backbone. Here two layers on a frame's feature, AdamW at 2e-3 with a cosine
decay. M sees random frames of a clip at each step, since the search will ask it about any combination.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tamis.core.distributed import broadcast_object, parallel_map
from tamis.core.rng import numpy_generator, seed_of, seeded_globals
from tamis.search.frames.training import batches

__all__ = [
    "Fit",
    "FrameModel",
    "fit_frame_model",
    "fit_on_frames",
    "model_forwards",
    "out_of_fold_logits",
    "time_weights",
    "weigh",
    "weighted_logits",
]

_EPOCHS, _SAMPLED = 40, 16
_EVENLY = 0.03  # of the frames drawn by weight; no part of a clip is lost for good
FrameModel = Callable[[np.ndarray], np.ndarray]  # features [m, d] -> logits of each frame [m, C]
Fit = Callable[[list[np.ndarray], np.ndarray, int], FrameModel]


def fit_frame_model(
    features: list[np.ndarray], labels: np.ndarray, seed: int, *, times: np.ndarray | None = None, epochs: int = _EPOCHS
) -> FrameModel:
    """A model M of single frames: two layers on a frame's feature, logits averaged over random frames of a clip.

    Args:
        features: [m, d] of each video.
        labels: int [V].
        seed: of weights, order and frames.
        times: weights of the parts of a clip (`time_weights`), by which the random frames are drawn; None: evenly.
        epochs: passes over the clips.
    """
    return fit_on_frames(features, labels, None, seed, times=times, epochs=epochs)


def fit_on_frames(
    features: list[np.ndarray],
    labels: np.ndarray,
    frames: list[np.ndarray] | None,
    seed: int,
    *,
    times: np.ndarray | None = None,
    epochs: int = _EPOCHS,
    sampled: int = _SAMPLED,
    width: int = 128,
    noise: float = 0.3,
) -> FrameModel:
    """As `fit_frame_model`, on given frames of each clip (``frames``, int [k] each) or on random ones (None).

    Args:
        features: [m, d] of each video.
        labels: int [V].
        frames: what to train on.
        seed: of weights, order, frames and noise.
        times: as `fit_frame_model`.
        epochs: passes over the clips.
        sampled: random frames of a clip at each step.
        width: of the hidden layer.
        noise: standard deviation added to the standardised features.
    """
    stacked = np.concatenate(features)
    mean, std = stacked.mean(0), stacked.std(0) + 1e-6
    inputs = [torch.from_numpy((clip - mean) / std).float() for clip in features]
    target = torch.from_numpy(labels)
    chances = [_chances(len(clip), times) for clip in features]
    with seeded_globals(seed_of(seed, 21)):
        layers = (nn.Linear(len(mean), width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, int(labels.max()) + 1))
        network = nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
        steps = epochs * -(-len(inputs) // 32)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(epochs):
            for batch in batches(np.arange(len(inputs)), 32, seed, epoch):
                picked = [
                    inputs[i][torch.multinomial(chances[i], sampled, True) if frames is None else frames[i]]
                    for i in batch
                ]
                clips = torch.stack(picked)
                logits = network(clips + noise * torch.randn_like(clips)).mean(1)
                loss = nn.functional.cross_entropy(logits, target[batch], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    network.eval()

    def model(clip: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            out: np.ndarray = network(torch.from_numpy((clip - mean) / std).float()).numpy()
        return out

    return model


def time_weights(logits: list[np.ndarray], labels: np.ndarray, *, bins: int = 15, steps: int = 300) -> np.ndarray:
    """How much frames of each part of a clip tell: weights >= 0 that minimise the loss of the weighted mean logits.

    A model of single frames is confident by chance in parts of a clip where nothing is to be seen, and the search would
    choose just those frames. Logits of frames it was not fitted on show which parts these are.

    Args:
        logits: out-of-fold, [m, C] of each video.
        labels: int [V].
        bins: parts of a clip.
        steps: of Adam on this convex problem.

    Returns:
        float64 [bins]; `weigh` applies them.
    """
    parts = np.stack([_bin_sums(clip, bins) for clip in logits])
    features, target = torch.from_numpy(parts).float(), torch.from_numpy(labels)
    weights = torch.full((bins,), 1.0, requires_grad=True)
    optimizer = torch.optim.Adam([weights], 0.05)
    for _ in range(steps):
        mean = torch.einsum("vbc,b->vc", features, weights.clamp_min(0))
        smooth = weights.diff().square().sum() / bins
        loss = nn.functional.cross_entropy(mean, target) + 0.01 * weights.abs().mean() + 0.003 * smooth
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found: np.ndarray = weights.detach().clamp_min(0).double().numpy()
    return found


def weigh(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logits of a clip's frames times the weight at each frame's time, interpolated: [m, C] -> [m, C].

    Args:
        logits: [m, C].
        weights: of the parts of a clip, [bins] (`time_weights`).
    """
    at = (np.arange(len(logits)) + 0.5) / len(logits) * len(weights) - 0.5
    return np.asarray(logits * np.interp(at, np.arange(len(weights)), weights)[:, None])


def _chances(m: int, times: np.ndarray | None) -> torch.Tensor:
    """How likely each of m frames is drawn: by its weight, with a share of `_EVENLY` for all alike."""
    drawn = np.zeros(m) if times is None else weigh(np.ones((m, 1)), times)[:, 0]
    if not drawn.any():  # also a short clip that has no frame where the weights are
        return torch.full((m,), 1 / m)
    return torch.from_numpy((1 - _EVENLY) * drawn / drawn.sum() + _EVENLY / m).float()


def _bin_sums(clip: np.ndarray, bins: int) -> np.ndarray:
    """[m, C] -> [bins, C], whose weighted sum is the mean of the weighted logits."""
    out = np.zeros((bins, clip.shape[1]))
    for number in range(bins):
        out[number] = weigh(clip, np.eye(bins)[number]).mean(0)
    return out


def out_of_fold_logits(
    features: list[np.ndarray], labels: np.ndarray, *, fit: Fit = fit_frame_model, folds: int = 5, seed: int = 0
) -> list[np.ndarray]:
    """Logits of every frame by a model that was fitted on other videos.

    Args:
        features: [m, d] of each video.
        labels: int [V].
        fit: as `search_frames`.
        folds: number of models; folds are balanced over the classes.
        seed: of folds and models.

    Returns:
        float64 [m, C] of each video, the same on every process.
    """
    order = numpy_generator(seed, 7).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds

    def one(number: int) -> list[tuple[int, np.ndarray]]:
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        model = fit([features[i] for i in inside], labels[inside], seed_of(seed, 22, number) % 2**32)
        return [(int(i), np.asarray(model(features[i]), dtype=np.float64)) for i in outside]

    found = dict(pair for pairs in parallel_map(one, list(range(folds))) for pair in pairs)
    return [found[i] for i in range(len(features))]


def model_forwards(features: list[np.ndarray], folds: int, rounds: int, *, trained: bool = True) -> int:
    """Frames that `weighted_logits` passes through models (a step of training counts 3).

    Args:
        features: [m, d] of each video.
        folds: models a round; each video is in the training part of all but one.
        rounds: of fitting.
        trained: by `fit_frame_model`; else one round, of whose training nobody knows the cost.
    """
    asked = sum(map(len, features))
    return rounds * (asked + 3 * _EPOCHS * _SAMPLED * len(features) * (folds - 1)) if trained else asked


def weighted_logits(
    features: list[np.ndarray],
    labels: np.ndarray,
    *,
    fit: Fit = fit_frame_model,
    folds: int = 5,
    seed: int = 0,
    bins: int = 15,
    rounds: int = 2,
) -> list[np.ndarray]:
    """Out-of-fold logits times the weight of each frame's time; the same on every process.

    Where a word is said at about the same time in all clips, a model fitted on frames of the whole clip sees mostly
    frames that tell nothing. The next round's models are fitted on frames drawn by the weights found.

    Args:
        features: [m, d] of each video.
        labels: int [V].
        fit: as `search_frames`.
        folds: models a round.
        seed: of folds and models.
        bins: of `time_weights`; 0: the logits as they are.
        rounds: of fitting; those of a ``fit`` of yours are one.
    """
    times: np.ndarray | None = None
    logits: list[np.ndarray] = []
    for number in range(rounds if bins and fit is fit_frame_model else 1):
        drawn = fit if times is None else functools.partial(fit_frame_model, times=times)
        logits = out_of_fold_logits(features, labels, fit=drawn, folds=folds, seed=seed_of(seed, 23, number))
        times = broadcast_object(time_weights(logits, labels, bins=bins)) if bins else None
    return logits if times is None else [weigh(clip, times) for clip in logits]
