"""The settings of Search-Map-Search."""

from __future__ import annotations

from dataclasses import dataclass

from tamis.core.checks import check_int, check_type
from tamis.core.rng import check_seed
from tamis.search.frames.training import MapConfig
from tamis.search.run import adjustable
from tamis.transforms.frames.policy import MOST_EVALUATIONS

__all__ = ["FramesConfig"]


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """Settings of `search_frames`.

    A journal is of stage 1. What the logits are made with is not compared: a fingerprint of the logits themselves is.

    Attributes:
        num_frames: n.
        centred: the default encoder subtracts each clip's own mean frame: for a fixed camera, see `PixelEncoder`.
        folds: number of models; each is asked only about videos it was not fitted on.
        clip_length: K.
        budget: most evaluations a video in stage 1, and a clip in stage 3.
        restarts: random starts of the frame search.
        candidates: at most this many frames of a video, evenly spread.
        time_waves: of relative time in a feature, see `FramePolicy`.
        time_weight: its weight.
        time_bins: parts of a clip whose frames' logits are weighted by how much they tell
            (`frames.models.time_weights`; not those of ``logits`` of yours), and frames whose logits tell next to
            nothing are no candidates of stage 1 (of all logits); 0: neither.
        time_rounds: how often the models are fitted; from the second round on, on frames drawn by the weights of the
            round before. Only for the default ``fit`` and ``time_bins`` > 0.
        map_config: stage 2.
        seed: of folds, models, starts and map.
    """

    num_frames: int = 8
    centred: bool = adjustable(False)
    folds: int = adjustable(5)
    clip_length: int = 30
    budget: int = 3000
    restarts: int = 2
    candidates: int = adjustable(256)
    time_waves: int = adjustable(4)
    time_weight: float = adjustable(1.0)
    time_bins: int = adjustable(15)
    time_rounds: int = adjustable(2)
    map_config: MapConfig = adjustable(MapConfig())  # noqa: RUF009  (frozen)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_frames", "clip_length", "time_rounds"):
            check_int(name, getattr(self, name), low=1)
        check_int("budget", self.budget, low=1, high=MOST_EVALUATIONS)  # a policy with more would not load
        check_int("time_bins", self.time_bins, low=0)
        check_seed(self.seed)
        check_type("map_config", self.map_config, MapConfig, "a MapConfig, such as MapConfig(width=64), or None")
