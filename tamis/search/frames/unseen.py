"""Are the frames that the policy chooses better than uniform ones? Asked on the clips its map was not trained on.

Better means a lower loss L(M(frames), y), with M the out-of-fold logits of stage 1. M's logits are weighted by time and
calibrated for the mean over a whole clip, so the mean of a few frames from where something is to be seen is too sure of
itself: its loss would be large where its answer is right. Therefore the logits of either choice are scaled by the one
factor >= 0 that suits that choice best on these clips: what is compared is how much the frames tell, not how loud M is.
A factor of 0 (frames that tell nothing) is a loss of log C.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from tamis.core.distributed import parallel_map
from tamis.core.errors import NoEffectWarning
from tamis.optimizers.frame_costs import log_sum_exp
from tamis.transforms.frames.policy import SearchedFrames
from tamis.transforms.frames.selectors import ClipView, UniformFrames

__all__ = ["Unseen", "compare_with_uniform", "scaled_losses", "warn_if_no_better"]

FEWEST = 8  # clips, below which nothing can be told


@dataclass(frozen=True)
class Unseen:
    """The comparison.

    Attributes:
        clips: number of unseen clips.
        loss: mean loss of the frames that the policy chooses; None with fewer than 8 clips.
        uniform: that of uniform frames.
        error: standard error of the mean difference between the two.
        evaluations: what it took: stage 3 on each clip, and the loss of both choices.
        forwards: frames that went through the map for it.
    """

    clips: int
    loss: float | None = None
    uniform: float | None = None
    error: float | None = None
    evaluations: int = 0
    forwards: int = 0

    def facts(self) -> dict[str, Any]:
        """What the policy keeps of it."""
        names = {"unseen_loss": self.loss, "uniform_loss": self.uniform, "unseen_error": self.error}
        return {"unseen_clips": self.clips, **names}


def compare_with_uniform(
    selector: SearchedFrames,
    features: list[np.ndarray],
    logits: list[np.ndarray],
    labels: np.ndarray,
    unseen: tuple[int, ...],
    num_frames: int,
) -> Unseen:
    """The loss of the policy's frames and of uniform ones, each at its own best scale; the same on every process.

    Args:
        selector: the policy's.
        features: [m, d] of each video.
        logits: of M, out of fold, [m, C] of each video.
        labels: int [V].
        unseen: videos that the map was not trained on.
        num_frames: n.
    """
    if len(unseen) < FEWEST:
        return Unseen(len(unseen))

    def one(number: int) -> tuple[np.ndarray, np.ndarray, int]:
        view, rows = ClipView(len(features[number]), features[number]), logits[number]
        uniform = UniformFrames().select(view, num_frames)
        if view.size < num_frames:  # all frames are taken
            return rows[uniform].mean(0), rows[uniform].mean(0), 0
        found = selector.search(view, num_frames)
        return rows[found.frames].mean(0), rows[uniform].mean(0), found.evaluations

    chosen, uniform, spent = zip(*parallel_map(one, list(unseen)), strict=True)
    truth = labels[list(unseen)]
    losses, others = scaled_losses(np.stack(chosen), truth), scaled_losses(np.stack(uniform), truth)
    return Unseen(
        clips=len(unseen),
        loss=float(losses.mean()),
        uniform=float(others.mean()),
        error=float((others - losses).std(ddof=1) / np.sqrt(len(unseen))),
        evaluations=sum(spent) + 2 * len(unseen),
        forwards=sum(len(features[i]) for i in unseen),
    )


def scaled_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each clip, the logits times the factor >= 0 that makes the mean least.

    Args:
        logits: [N, C].
        labels: int [N].

    Returns:
        float64 [N].
    """
    spread = float(np.ptp(logits, axis=1).mean()) or 1.0
    factors = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 241)]) / spread
    right = logits[np.arange(len(labels)), labels]
    losses = np.stack([log_sum_exp(factor * logits) - factor * right for factor in factors])
    best: np.ndarray = losses[losses.mean(1).argmin()]
    return best


def warn_if_no_better(unseen: Unseen) -> None:
    """Warn unless the policy's frames have the lower loss, by more than one standard error.

    Warns:
        NoEffectWarning: with both losses and what to try.
    """
    if unseen.loss is None or unseen.uniform is None or unseen.error is None:
        return
    if unseen.uniform - unseen.loss <= unseen.error:
        warnings.warn(
            f"search_frames: on {unseen.clips} unseen clips the chosen frames have a loss of {unseen.loss:.4g}, "
            f"uniform ones of {unseen.uniform:.4g} (standard error of the difference {unseen.error:.2g}): nothing "
            "shows that they are better; give more videos or a better encoder=, or use UniformFrames()",
            NoEffectWarning,
            stacklevel=4,
        )
