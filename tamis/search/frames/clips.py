"""Stage 1 of Search-Map-Search, Algorithm 4: which frames of a video with a label were best."""

from __future__ import annotations

import numpy as np

from tamis.core.rng import numpy_generator
from tamis.optimizers.frame_costs import GLSConfig, MeanLogitObjective, guided_local_search

__all__ = ["decided", "search_clip"]


def search_clip(
    logits: np.ndarray,
    label: int,
    num_frames: int,
    *,
    clip_length: int = 30,
    budget: int = 3000,
    restarts: int = 2,
    seed: int = 0,
) -> tuple[np.ndarray, float, int]:
    """Stage 1 for one video, Algorithm 4: clips first, then frames inside the chosen clips.

    Args:
        logits: [m, C] of single frames, by a model that was not fitted on this video.
        label: y.
        num_frames: n.
        clip_length: K.
        budget: most evaluations, both searches together.
        restarts: random starts of the frame search, which share its budget.
        seed: of the starts.

    Returns:
        frames int64 [n] sorted, the loss L(M(frames), y), the evaluations spent.

    Raises:
        ValueError: the budget does not cover the losses of clips and frames.
    """
    objective = MeanLogitObjective(logits, label)
    size = objective.size
    clips = [np.arange(first, min(first + clip_length, size)) for first in range(0, size, clip_length)]
    if budget < 2 * (len(clips) + 1) + size + restarts:
        raise ValueError(
            f"budget={budget}: must be at least {2 * (len(clips) + 1) + size + restarts} for {size} frames"
        )
    coarse = MeanLogitObjective(np.stack([objective.logits[clip].mean(0) for clip in clips]), label)
    first = guided_local_search(coarse, num_frames, config=GLSConfig(budget=budget // 2 - size // 2))  # lines 1-3
    allowed = [clips[k] for k in first.frames]  # line 4
    alone = objective.costs(np.arange(size)[:, None])
    spent = first.evaluations + size
    best: tuple[np.ndarray, float] | None = None
    for restart in range(restarts):
        share = (budget - spent) // (restarts - restart)
        rng = numpy_generator(seed, restart)
        start = np.array([int(rng.choice(frames)) for frames in allowed])  # line 5
        found = guided_local_search(
            objective, num_frames, config=GLSConfig(budget=share), start=start, frame_costs=alone, allowed=allowed
        )  # line 6
        spent += found.evaluations
        if best is None or found.cost < best[1]:
            best = (found.frames, found.cost)
        if found.exact:
            break
    frames, cost = best if best is not None else (first.frames, first.cost)
    return frames, cost, spent


def decided(logits: np.ndarray) -> np.ndarray:
    """Numbers of the frames whose logits differ between classes by a tenth or more of the most decided frame's."""
    spread = np.ptp(logits, axis=1)
    return np.flatnonzero(spread >= 0.1 * spread.max())
