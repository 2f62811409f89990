"""The two small networks that Search-Map-Search trains: a model of single frames, and the mapping network.

M. Zhao's thesis, chapter 5. M averages its logits over frames (TSN); the map minimises the cosine distance to the mean
feature of the best combination, Eq. (5.4).

**Unstated** in the thesis and chosen here, as defaults that suit a thousand clips: AdamW at 1e-3 with a cosine decay;
frames are dropped and noise is added to the features, because a thousand targets are few. M sees random frames of a
clip at each step, since the search will ask it about any combination.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tamis._core.checks import check_choice, check_int, check_range
from tamis._core.progress import progress_bar
from tamis._core.rng import numpy_generator, seed_of, torch_generator
from tamis.transforms.frames_map import MAPS, make_map

__all__ = ["FrameModel", "MapConfig", "MapResult", "fit_frame_model", "pack", "train_map"]

FrameModel = Callable[[np.ndarray], np.ndarray]  # features [m, d] -> logits of each frame [m, C]


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """Stage 2.

    Attributes:
        kind: ``"transformer"`` or ``"mlp"``.
        width: size inside the map, a multiple of 4.
        epochs: passes over the clips.
        batch_size: clips a step.
        learning_rate: of AdamW.
        dropout: in the map, and share of a clip's frames hidden at each step.
        noise: standard deviation added to the standardised features.
        held_out: share of the clips that the score is measured on; they are not trained on.
    """

    kind: str = "transformer"
    width: int = 128
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    dropout: float = 0.2
    noise: float = 0.3
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, MAPS)
        for name in ("width", "epochs", "batch_size"):
            check_int(name, getattr(self, name), low=1)
        check_range("learning_rate", self.learning_rate, low=0.0, open_low=True)
        check_range("dropout", self.dropout, low=0.0, high=1.0, open_high=True)
        check_range("noise", self.noise, low=0.0)
        check_range("held_out", self.held_out, low=0.0, high=0.5)


@dataclass(frozen=True)
class MapResult:
    """A trained map.

    Attributes:
        weights: by parameter.
        score: mean cosine between prediction and target on the held-out clips, None without any.
        losses: mean cosine distance of each epoch.
    """

    weights: dict[str, torch.Tensor]
    score: float | None
    losses: tuple[float, ...]


def train_map(rows: list[np.ndarray], targets: list[np.ndarray], config: MapConfig, *, seed: int = 0) -> MapResult:
    """Minimise Eq. (5.4), the cosine distance between prediction and target.

    Args:
        rows: features of each clip, [m, d].
        targets: mean feature of each clip's best combination, [d].
        config: stage 2.
        seed: of weights, order, noise and the held-out clips.
    """
    order = numpy_generator(seed, 11).permutation(len(rows))
    count = int(config.held_out * len(rows))
    held, used = order[:count], order[count:]
    wanted = torch.from_numpy(np.stack(targets)).float()
    network = make_map(config.kind, rows[0].shape[1], config.width, dropout=config.dropout, seed=seed_of(seed, 12))
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=0.01)
    steps = config.epochs * -(-len(used) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    with (
        _seeded(seed_of(seed, 13)),
        progress_bar(range(config.epochs), total=config.epochs, desc="frames: map") as epochs,
    ):
        for epoch in epochs:
            total = 0.0
            for batch in _batches(used, config.batch_size, seed, epoch):
                features, mask = pack([rows[i] for i in batch])
                hidden = torch.rand(mask.shape) < config.dropout
                hidden[:, 0] &= mask.sum(1) > 1
                kept = mask & ~hidden
                kept[~kept.any(1)] = mask[~kept.any(1)]
                predicted = network(features + config.noise * torch.randn_like(features), kept)
                loss = cosine_distance(predicted, wanted[batch]).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(batch)
            losses.append(total / len(used))
    network.eval()
    score = None
    if len(held):
        with torch.inference_mode():
            score = 1.0 - float(cosine_distance(network(*pack([rows[i] for i in held])), wanted[held]).mean())
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return MapResult(weights, score, tuple(losses))


def cosine_distance(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - cosine, row by row: [B, d], [B, d] -> [B]."""
    return 1.0 - nn.functional.cosine_similarity(predicted, target, dim=-1)


def fit_frame_model(features: list[np.ndarray], labels: np.ndarray, seed: int) -> FrameModel:
    """A model M of single frames: two layers on a frame's feature, logits averaged over random frames of a clip.

    Args:
        features: [m, d] of each video.
        labels: int [V].
        seed: of weights, order and frames.
    """
    return fit_on_frames(features, labels, None, seed)


def fit_on_frames(
    features: list[np.ndarray],
    labels: np.ndarray,
    frames: list[np.ndarray] | None,
    seed: int,
    *,
    epochs: int = 40,
    sampled: int = 16,
    width: int = 128,
    noise: float = 0.3,
) -> FrameModel:
    """As `fit_frame_model`, on given frames of each clip (``frames``, int [k] each) or on random ones (None).

    Args:
        features: [m, d] of each video.
        labels: int [V].
        frames: what to train on.
        seed: of weights, order, frames and noise.
        epochs: passes over the clips.
        sampled: random frames of a clip at each step.
        width: of the hidden layer.
        noise: standard deviation added to the standardised features.
    """
    stacked = np.concatenate(features)
    mean, std = stacked.mean(0), stacked.std(0) + 1e-6
    inputs = [torch.from_numpy((clip - mean) / std).float() for clip in features]
    target = torch.from_numpy(labels)
    with _seeded(seed_of(seed, 21)):
        layers = (nn.Linear(len(mean), width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, int(labels.max()) + 1))
        network = nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.05)
        steps = epochs * -(-len(inputs) // 32)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(epochs):
            for batch in _batches(np.arange(len(inputs)), 32, seed, epoch):
                picked = [
                    inputs[i][torch.randint(len(inputs[i]), (sampled,)) if frames is None else frames[i]] for i in batch
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
    """Logits of a clip's frames times the weight at each frame's time, interpolated: [m, C] -> [m, C]."""
    at = (np.arange(len(logits)) + 0.5) / len(logits) * len(weights) - 0.5
    return np.asarray(logits * np.interp(at, np.arange(len(weights)), weights)[:, None])


def _bin_sums(clip: np.ndarray, bins: int) -> np.ndarray:
    """[m, C] -> [bins, C], whose weighted sum is the mean of the weighted logits."""
    out = np.zeros((bins, clip.shape[1]))
    for number in range(bins):
        out[number] = weigh(clip, np.eye(bins)[number]).mean(0)
    return out


def pack(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of different lengths as one batch: float32 [B, m, d] padded with zeros, bool [B, m]."""
    most = max(len(clip) for clip in rows)
    features = torch.zeros(len(rows), most, rows[0].shape[1])
    mask = torch.zeros(len(rows), most, dtype=torch.bool)
    for i, clip in enumerate(rows):
        features[i, : len(clip)] = torch.from_numpy(clip)
        mask[i, : len(clip)] = True
    return features, mask


def _batches(items: np.ndarray, size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    order = torch.randperm(len(items), generator=torch_generator(seed, 14, epoch)).numpy()
    for at in range(0, len(items), size):
        yield items[order[at : at + size]]


class _seeded:
    """Torch's global CPU generator seeded inside, and as it was outside: dropout has no generator of its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.before = torch.get_rng_state()
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self.before)
