"""Which frames of a clip to keep: one small protocol, and the selectors that need no search.

They are what a searched policy has to beat, so they see exactly what it sees: the features of the same candidates.

=================== ======= ====================================================================================
selector            reads   after
=================== ======= ====================================================================================
`UniformFrames`     length  the middle of n equal segments
`SegmentFrames`     length  TSN, L. Wang et al., ECCV 2016: one random frame of each of n segments
`RandomFrames`      length  n different frames, uniformly
`ConfidentFrames`   feature SCSampler, B. Korbar et al., ICCV 2019: highest class probability of the single frame
`PairwiseFrames`    feature SMART, S. Gowda et al., AAAI 2021: confident frames that differ from one another
`FarthestFrames`    feature k-centre: each next frame is the one farthest from those chosen
`SceneFrames`       feature shots cut at the n - 1 largest changes, the middle frame of each
=================== ======= ====================================================================================

**Deviations**: SCSampler and SMART train samplers of their own; here both read the single-frame probabilities of a
given head, and SMART's learnt relation of two frames is their cosine distance. Hence "-like" where they are measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from tamis.core.checks import check_int
from tamis.core.rng import numpy_generator
from tamis.optimizers.guided_local_search import check_features

__all__ = [
    "ClipView",
    "ConfidentFrames",
    "FarthestFrames",
    "FrameSelector",
    "PairwiseFrames",
    "RandomFrames",
    "SceneFrames",
    "SegmentFrames",
    "UniformFrames",
]

Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ClipView:
    """What a selector sees of a clip.

    Attributes:
        size: m, number of frames to choose from, >= 1.
        features: float [m, d], or None if the selector does not read them.
        times: float64 [m], seconds, increasing, or None if unknown.
        key: names the clip's stream of randomness, for selectors that draw: made of seed, epoch and the clip's content,
            so the same on every worker, rank and machine, wherever the file lies.
    """

    size: int
    features: np.ndarray | None = None
    times: np.ndarray | None = None
    key: tuple[int, ...] = (0,)


class FrameSelector(ABC):
    """Chooses frames of a clip. Stateless, so that it works in any worker; a subclass writes `pick`.

    Attributes:
        needs_features: `select` must be given features.
        draws: `pick` reads ``view.key``. Set it in a selector of yours that draws: otherwise the collator does not name
            the clip, all clips have the same key, and nobody is warned if the epoch is never told.
    """

    needs_features: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    def select(self, view: ClipView, n: int) -> np.ndarray:
        """``n`` frames in order of time; of a clip shorter than that all frames, the last one repeated.

        Args:
            view: the clip.
            n: number of frames, >= 1.

        Returns:
            int64 [n], sorted, in [0, m); frames may repeat.

        Raises:
            ValueError: features are missing, of another length, or not finite.
        """
        check_int("n", n, low=1)
        check_int("size", view.size, low=1)
        if view.size < n:
            return np.minimum(np.arange(n), view.size - 1)
        if self.needs_features:
            if view.features is None:
                raise ValueError(f"{type(self).__name__}: needs features of the frames; got none")
            if len(check_features(view.features)) != view.size:
                raise ValueError(f"features={len(view.features)}: must be one row a frame ({view.size})")
        frames: np.ndarray = np.sort(self.pick(view, n)).astype(np.int64)
        return frames

    @abstractmethod
    def pick(self, view: ClipView, n: int) -> np.ndarray:
        """Choose; a subclass writes this.

        Args:
            view: a clip with at least ``n`` frames, and features if `needs_features` says so.
            n: number of frames, >= 1.

        Returns:
            int [n], each in [0, m), in any order.
        """

    def scores(self, view: ClipView) -> np.ndarray | None:
        """How much the selector wants each frame by itself, [m], for pictures; None if it has no such number."""
        return None

    def _features(self, view: ClipView) -> np.ndarray:
        return check_features(view.features if view.features is not None else np.zeros((0, 0)))


class UniformFrames(FrameSelector):
    """The middle frame of each of n equal segments."""

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        middles: np.ndarray = (2 * np.arange(n) + 1) * view.size // (2 * n)
        return middles


class SegmentFrames(FrameSelector):
    """A random frame of each of n equal segments."""

    draws = True

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        edges = np.arange(n + 1) * view.size // n
        frames: np.ndarray = numpy_generator(*view.key).integers(edges[:-1], edges[1:])
        return frames


class RandomFrames(FrameSelector):
    """Any n different frames."""

    draws = True

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        frames: np.ndarray = numpy_generator(*view.key).permutation(view.size)[:n]
        return frames


class ConfidentFrames(FrameSelector):
    """The n frames whose most probable class is the most probable.

    Args:
        head: features [m, d] -> logits [m, C], e.g. the classifier's own last layer, in eval mode.
    """

    needs_features = True

    def __init__(self, head: Head) -> None:
        self.head = head

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        order: np.ndarray = np.argsort(-self.scores(view), kind="stable")
        return order[:n]

    def scores(self, view: ClipView) -> np.ndarray:
        return confidence(self.head, self._features(view))


class PairwiseFrames(FrameSelector):
    """Frames that are confident and unlike each other: greedily the largest s_i sum_j s_j (1 - cos(h_i, h_j)).

    Args:
        head: as `ConfidentFrames`.
    """

    needs_features = True

    def __init__(self, head: Head) -> None:
        self.head = head

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        features = self._features(view)
        score = confidence(self.head, features)
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        pair = score[:, None] * score * (1.0 - unit @ unit.T)
        chosen = [int(score.argmax())]
        for _ in range(n - 1):
            gain = pair[:, chosen].sum(1)
            gain[chosen] = -np.inf
            chosen.append(int(gain.argmax()))
        return np.array(chosen)


class FarthestFrames(FrameSelector):
    """From the frame nearest to the mean on, always the frame farthest (Euclidean) from those chosen."""

    needs_features = True

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        features = self._features(view)
        chosen = [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
        away = np.full(view.size, np.inf)
        for _ in range(n - 1):
            away = np.minimum(away, np.linalg.norm(features - features[chosen[-1]], axis=1))
            away[chosen] = -1.0
            chosen.append(int(away.argmax()))
        return np.array(chosen)


class SceneFrames(FrameSelector):
    """Cuts the clip where neighbouring frames differ most, and takes the middle of each shot.

    Where nothing changes any more, the longest shot is halved.
    """

    needs_features = True

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        change = np.linalg.norm(np.diff(self._features(view), axis=0), axis=1)
        order = np.argsort(-change, kind="stable")[: n - 1]
        edges = sorted({0, view.size, *(int(i) + 1 for i in order if change[i] > 0)})
        while len(edges) <= n:
            longest = int(np.argmax(np.diff(edges)))
            edges.insert(longest + 1, (edges[longest] + edges[longest + 1]) // 2)
        shots = np.array(edges)
        middles: np.ndarray = (shots[:-1] + shots[1:] - 1) // 2
        return middles


def confidence(head: Head, features: np.ndarray) -> np.ndarray:
    """The largest class probability of each frame alone.

    Args:
        head: features [m, d] -> logits [m, C].
        features: [m, d].

    Returns:
        [m] float64.

    Raises:
        ValueError: the head takes other features, or does not give finite logits [m, C].
    """
    like = next(head.parameters(), torch.zeros(0)) if isinstance(head, torch.nn.Module) else torch.zeros(0)
    with torch.inference_mode():
        try:
            logits = head(torch.from_numpy(features).to(like))
        except RuntimeError as error:
            raise ValueError(
                f"head: cannot read features {list(features.shape)} ({str(error).splitlines()[0]}); it must be fitted "
                "on features of the same encoder"
            ) from error
    if logits.ndim != 2 or len(logits) != len(features) or not bool(torch.isfinite(logits).all()):
        raise ValueError(f"head: must give finite logits [{len(features)}, C], got {list(logits.shape)}")
    best: np.ndarray = logits.double().softmax(-1).amax(-1).cpu().numpy()
    return best
