"""What stage 3 searches in: a clip's standardised features with their time, and an objective without repeats."""

from __future__ import annotations

import numpy as np

from tamis.optimizers.guided_local_search import CosineObjective, FrameObjective

__all__ = ["DistinctFrames", "clip_features"]


def clip_features(features: np.ndarray, mean: np.ndarray, std: np.ndarray, waves: int, weight: float) -> np.ndarray:
    """Standardised features with relative time.

    Time t in (0, 1) gives cos(pi k t) and sin(pi k t), k = 1 .. waves, times ``weight`` sqrt(d / waves): at weight 1
    time and content have the same norm.

    Args:
        features: [m, d], of all candidates of a clip in order of time.
        mean: [d], subtracted.
        std: [d], divided by, > 0.
        waves: number of frequencies, >= 0.
        weight: of time, >= 0.

    Returns:
        float64 [m, d + 2 waves].
    """
    standard = (features - mean) / std
    if not waves:
        return np.asarray(standard, dtype=np.float64)
    angle = np.pi * np.outer((np.arange(len(features)) + 0.5) / len(features), np.arange(1, waves + 1))
    time = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * (weight * np.sqrt(features.shape[1] / waves))
    return np.concatenate([standard, time], axis=1)


class DistinctFrames(FrameObjective):
    """Another objective, plus 4 for each repeat: more than two cosine distances ever differ by.

    Args:
        objective: `CosineObjective`.
    """

    def __init__(self, objective: CosineObjective) -> None:
        self.objective, self.size = objective, objective.size

    def costs(self, frames: np.ndarray) -> np.ndarray:
        repeats = (np.diff(np.sort(frames, axis=1), axis=1) == 0).sum(1)
        costs: np.ndarray = self.objective.costs(frames) + 4.0 * repeats
        return costs

    def swaps(self, chosen: np.ndarray, positions: np.ndarray, frames: np.ndarray | None = None) -> np.ndarray:
        costs = self.objective.swaps(chosen, positions, frames)
        every = np.arange(self.size) if frames is None else frames
        for row, position in zip(costs, positions, strict=True):
            rest = np.delete(chosen, position)
            row += 4.0 * (len(rest) - len(np.unique(rest)) + np.isin(every, rest))
        return costs
