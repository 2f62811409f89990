"""Stage 2 of Search-Map-Search: training the mapping network.

M. Zhao's thesis, chapter 5: the map minimises the cosine distance to the mean feature of the best combination,
Eq. (5.4).

**Unstated** in the thesis and chosen here, as defaults that suit a thousand clips: AdamW at 1e-3 with a cosine decay;
frames are dropped and noise is added to the features, because a thousand targets are few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.progress import progress_bar
from tamis.core.rng import numpy_generator, seed_of, seeded_globals, torch_generator
from tamis.transforms.frames.map import MAPS, make_map

__all__ = ["MapConfig", "MapResult", "pack", "train_map"]


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
        forwards: frames that went through the map; a step of training counts 3.
        held: numbers of the held-out clips.
    """

    weights: dict[str, torch.Tensor]
    score: float | None
    losses: tuple[float, ...]
    forwards: int
    held: tuple[int, ...]


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
        seeded_globals(seed_of(seed, 13)),
        progress_bar(range(config.epochs), total=config.epochs, desc="frames: map") as epochs,
    ):
        for epoch in epochs:
            total = 0.0
            for batch in batches(used, config.batch_size, seed, epoch):
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
    forwards = 3 * config.epochs * sum(len(rows[i]) for i in used) + sum(len(rows[i]) for i in held)
    return MapResult(weights, score, tuple(losses), forwards, tuple(held.tolist()))


def cosine_distance(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - cosine, row by row.

    Args:
        predicted: [B, d].
        target: [B, d].

    Returns:
        [B], in [0, 2].
    """
    return 1.0 - nn.functional.cosine_similarity(predicted, target, dim=-1)


def pack(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of different lengths as one batch: float32 [B, m, d] padded with zeros, bool [B, m]."""
    most = max(len(clip) for clip in rows)
    features = torch.zeros(len(rows), most, rows[0].shape[1])
    mask = torch.zeros(len(rows), most, dtype=torch.bool)
    for i, clip in enumerate(rows):
        features[i, : len(clip)] = torch.from_numpy(clip)
        mask[i, : len(clip)] = True
    return features, mask


def batches(items: np.ndarray, size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    order = torch.randperm(len(items), generator=torch_generator(seed, 14, epoch)).numpy()
    for at in range(0, len(items), size):
        yield items[order[at : at + size]]
