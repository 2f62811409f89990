"""Which encoder to take: how often a model of single frames, given frames drawn at random, is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tamis.core.checks import check_int
from tamis.core.rng import numpy_generator
from tamis.core.types import VideoSource
from tamis.search.frames.inputs import checked_labels, read_features
from tamis.search.frames.models import out_of_fold_logits
from tamis.transforms.frames.encoder import FrameEncoder

__all__ = ["compare_encoders"]


def compare_encoders(
    videos: Sequence[VideoSource],
    labels: Sequence[int] | np.ndarray,
    encoders: Mapping[str, FrameEncoder | str] | None = None,
    *,
    num_frames: int = 8,
    folds: int = 5,
    candidates: int = 256,
    draws: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy of a model on frames drawn at random, by encoder: the features bind a search more than its settings.

    The models are those of `search_frames`' first stage, each asked about videos that it was not fitted on. Call it on
    all processes; videos and models are dealt out.

    Args:
        videos: what `tamis.transforms.open_video` takes.
        labels: class of each video, 0 .. C - 1.
        encoders: name -> encoder, or the name of one that a search fits (``"pixels"``, ``"motion"``); None: these two.
        num_frames: frames of a draw.
        folds: number of models.
        candidates: at most this many frames of a video are read.
        draws: of frames, for each video.
        seed: of folds, models and draws.

    Returns:
        name -> accuracy in [0, 1], best first. Over V videos its standard error is at most 0.5 / sqrt(V).

    Raises:
        ValueError, TypeError, VideoError: as `search_frames`.
    """
    check_int("draws", draws, low=1)
    truth = checked_labels(labels, len(videos), folds, fitted=True)
    named = {"pixels": "pixels", "motion": "motion"} if encoders is None else encoders
    right = {}
    for name, encoder in named.items():
        features, _ = read_features(videos, encoder, candidates, None, seed)
        logits = out_of_fold_logits(features, truth, folds=folds, seed=seed)
        right[name] = float(
            np.mean([_hits(clip, truth[i], num_frames, draws, seed, i) for i, clip in enumerate(logits)])
        )
    return dict(sorted(right.items(), key=lambda item: -item[1]))


def _hits(logits: np.ndarray, label: int, n: int, draws: int, seed: int, number: int) -> float:
    """Share of draws of ``n`` frames whose mean logits [m, C] are highest for ``label``."""
    drawn = numpy_generator(seed, 31, number).integers(len(logits), size=(draws, n))
    return float((logits[drawn].mean(1).argmax(1) == label).mean())
