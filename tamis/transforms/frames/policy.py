"""The policy of Search-Map-Search: for any clip, the feature its best frames would have, and the frames nearest to it.

M. Zhao et al., "Search-Map-Search: A Frame Selection Paradigm for Action Recognition", CVPR 2023 (chapter 5 of
M. Zhao's thesis). What is new there: not frames are scored but the combination is predicted, as one feature; a search
then finds the frames. Stage 1 and 2 (with labels) are in `tamis.search.frames.search`; this is stage 3, Eq. (5.5).

========= =============== =====================================================================
symbol    here            meaning
========= =============== =====================================================================
h_i       a row           feature of frame i: standardised, with its time, see `clip_features`
F         ``map``         the mapping network
h^        `predict`       predicted feature of the best combination, [d]
X~        `pick`          the multiset of n frames of least cosine distance to h^
========= =============== =====================================================================

**Deviations**: features are standardised (the cosine of raw features is nearly 1 for all frames of a clip), and a
frame's relative time is appended as ``time_waves`` sines and cosines times ``time_weight``: where in a clip the
informative frames lie is the first thing there is to learn. ``time_waves=0`` is the thesis.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.errors import PolicyError
from tamis.core.types import Figure
from tamis.optimizers.guided_local_search import (
    CosineObjective,
    GLSConfig,
    GLSResult,
    guided_local_search,
)
from tamis.policy.base import Policy, register_policy
from tamis.policy.facts import Fact, Facts
from tamis.transforms.frames.clip_search import DistinctFrames, clip_features
from tamis.transforms.frames.encoder import FrameEncoder, PixelEncoder
from tamis.transforms.frames.map import MAPS, make_map
from tamis.transforms.frames.selectors import ClipView, FrameSelector

__all__ = ["MOST_EVALUATIONS", "FramePolicy", "SearchedFrames", "clip_features"]

MOST_EVALUATIONS = 1_000_000  # a clip: what a loaded policy may cost is bounded
LARGEST_PICTURE = 1024


@register_policy("frames")
@dataclass(frozen=True, kw_only=True)
class FramePolicy(Policy):
    """A trained mapping network and how to use it: made by `tamis.search.search_frames`.

    Attributes:
        num_frames: n of the search; another n may be selected.
        feature_size: d, of the encoder.
        map: ``"transformer"`` or ``"mlp"``.
        width: size inside the map.
        time_waves: waves of relative time appended to a feature (2 numbers each).
        time_weight: their weight.
        budget: most evaluations of the search for one clip.
        thumbnail: (height, width) of the policy's own encoder, (0, 0) if the features come from the user's.
        neighbours: of the policy's own encoder.
        centred: of the policy's own encoder.
        piece: of the policy's own encoder, see `PixelEncoder`.
        context: of the policy's own encoder.
        encoder_digest: what the ``digest()`` of the user's encoder was; empty if it has none, or the policy its own.
        weights: of the map, by parameter.
        scale: ``mean`` and ``std``, float32 [d], of the features.
        encoder: ``mean`` and ``components`` of the policy's own encoder; empty for the user's.
        profile: float32 [100], share of the searched frames (stage 1) in each hundredth of their clips.
    """

    schema = 3  # 1 had no ``centred``, 2 no ``piece``, ``context`` and ``encoder_digest``

    num_frames: int
    feature_size: int
    map: str = "transformer"
    width: int = 128
    time_waves: int = 4
    time_weight: float = 1.0
    budget: int = 3000
    thumbnail: tuple[int, int] = (0, 0)
    neighbours: int = 0
    centred: bool = False
    piece: tuple[int, int] = (0, 0)
    context: tuple[int, ...] = ()
    encoder_digest: str = ""
    weights: dict[str, torch.Tensor]
    scale: dict[str, torch.Tensor]
    encoder: dict[str, torch.Tensor]
    profile: torch.Tensor

    def __post_init__(self) -> None:
        for name, low in (("num_frames", 1), ("feature_size", 1), ("time_waves", 0)):
            check_int(name, getattr(self, name), low=low)
        check_int("budget", self.budget, low=2, high=MOST_EVALUATIONS)
        check_range("time_weight", self.time_weight, low=0.0)
        check_choice("map", self.map, MAPS)
        if self.scale.keys() != {"mean", "std"} or any(
            tensor.shape != (self.feature_size,) or not bool(torch.isfinite(tensor).all())
            for tensor in self.scale.values()
        ):
            raise ValueError(f"scale: must be finite mean and std [{self.feature_size}]")
        if not bool((self.scale["std"] > 0).all()):
            raise ValueError("scale['std']: must be > 0")
        if self.profile.shape != (100,) or not bool((self.profile >= 0).all()):
            raise ValueError("profile: must be [100], >= 0")
        if bool(self.encoder) != (self.thumbnail != (0, 0)) or (
            self.encoder and self.encoder.keys() != {"mean", "components"}
        ):
            raise ValueError("encoder: must be mean and components with a thumbnail, or empty without")
        if max(self.thumbnail) > LARGEST_PICTURE:  # with a piece, no tensor is as large as it
            raise ValueError(f"thumbnail={self.thumbnail}: must be at most {LARGEST_PICTURE} a side")
        encoder = self.pixel_encoder()
        if encoder is not None and encoder.dim != self.feature_size:
            raise ValueError(f"feature_size={self.feature_size}: the encoder gives {encoder.dim}")
        self.build_map()  # refuses weights that do not fit

    @classmethod
    def migrate(
        cls, spec: dict[str, Any], tensors: dict[str, torch.Tensor], schema: int
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        return {"centred": False, "piece": [0, 0], "context": [], "encoder_digest": "", **spec}, tensors

    def build_map(self) -> torch.nn.Module:
        """The mapping network with its weights, in eval mode."""
        with torch.device("meta"):  # the sizes are what a file says: nothing is allocated before they fit its tensors
            network = make_map(self.map, self.feature_size + 2 * self.time_waves, self.width, seed=0)
        wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in self.weights.items()}
        if wanted != given:
            wrong = min(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
            raise ValueError(f"weights[{wrong!r}]: must be {wanted.get(wrong)}, got {given.get(wrong)}")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.weights.values()):
            raise ValueError("weights: must be finite")
        network.load_state_dict({name: tensor.float().clone() for name, tensor in self.weights.items()}, assign=True)
        return network.eval().requires_grad_(False)

    def pixel_encoder(self) -> PixelEncoder | None:
        """The policy's own encoder, or None if it was searched with the user's."""
        if not self.encoder:
            return None
        mean, components = self.encoder["mean"], self.encoder["components"]
        return PixelEncoder(self.thumbnail, mean, components, self.neighbours, self.centred, self.piece, self.context)

    def selector(self, *, distinct: bool = False) -> SearchedFrames:
        """What `FrameSelectionCollator` uses; ``distinct`` as `SearchedFrames`."""
        return SearchedFrames(self, distinct=distinct)

    def check(
        self,
        subject: object = None,
        /,
        *,
        data: object = None,
        features: np.ndarray | None = None,
        encoder: FrameEncoder | None = None,
    ) -> tuple[str, ...]:
        """Compare the policy with the data it was searched on, with the features of a clip, or with an encoder.

        Args:
            subject: the old, positional spelling of ``data`` or ``features``.
            data: as `Policy.check`.
            features: of an encoder, [m, d].
            encoder: the one that is to be used; compared by its ``digest()``, if it and the policy have one.

        Returns:
            The names of what was compared and agrees, as `Policy.check`.

        Raises:
            PolicyError: the data differ, the features are of another size, or the encoder is another one.
            TypeError: nothing to check was given.

        Warns:
            FutureWarning: the positional spelling was used.
        """
        if encoder is not None:
            return self._check_encoder(encoder)
        if features is None and not hasattr(subject, "shape"):
            return super().check(data=self._keyword("data", subject, data))
        shape: tuple[int, ...] = np.shape(self._keyword("features", subject, features))  # type: ignore[call-overload]
        if shape[-1] != self.feature_size:
            raise PolicyError(
                f"frames.check: features of size {shape[-1]}: the policy was searched on size {self.feature_size}; use "
                "the encoder it was searched with"
            )
        return ("feature_size",)

    def _check_encoder(self, encoder: FrameEncoder) -> tuple[str, ...]:
        own = self.pixel_encoder()
        wanted = self.encoder_digest if own is None else own.digest()
        digest = getattr(encoder, "digest", None)
        if not wanted or digest is None:
            return ()
        if digest() != wanted:
            raise PolicyError(
                f"frames.check: {type(encoder).__name__} is another encoder than the one that the policy was searched "
                "with (their digests differ); use that one, or search again"
            )
        return ("encoder_digest",)

    def facts(self) -> Facts:
        """What the policy says: its features, its map, where in a clip the best frames lie."""
        peak = int(self.profile.argmax())
        own = f"thumbnails {self.thumbnail[0]}x{self.thumbnail[1]}" if self.encoder else "an encoder of yours"
        own = f"the liveliest {self.piece[0]}x{self.piece[1]} of {own}" if any(self.piece) else own
        own += " less the clip's mean" if self.centred else ""
        waves = f", with {self.time_waves} waves of time" if self.time_waves else ""
        work = f"map: {self.map} of width {self.width}; then at most {self.budget:,} evaluations a clip"
        rows = (
            Fact("features", self.feature_size, f"features: {self.feature_size} numbers a frame from {own}{waves}"),
            Fact("map", self.map, work),
            Fact("peak", peak, f"best frames of the training clips lie most often around {peak} % of the clip"),
        )
        title = f"Search-Map-Search: {self.num_frames} frames of a clip, chosen together"
        if self.search is None:
            return Facts(title=title, rows=rows)
        budget = ", ".join(f"{value:,} {name}" for name, value in sorted(self.search.budget.items()))
        score = "" if self.search.score is None else f", cosine on unseen clips {self.search.score:.3f}"
        found = Fact("search", self.search.budget, f"found with {budget} (seed {self.search.seed}){score}")
        return Facts(title=title, rows=rows, provenance=(found, *_against_uniform(self.search.config)))

    def draw(self, figure: Figure) -> None:
        """Where in the clip the best frames of stage 1 lay. For one clip: `FrameSelectionCollator.plot`."""
        axes = figure.subplots()
        axes.bar(np.arange(100) + 0.5, self.profile.numpy(), width=1.0)
        axes.axhline(0.01, color="grey", linewidth=0.8, linestyle="--", label="if all moments were alike")
        axes.legend()
        axes.set(xlabel="% of the clip", ylabel="share of the searched frames", title="best frames of training clips")


def _against_uniform(config: Mapping[str, bool | int | float | str | None]) -> list[Fact]:
    """The fact about clips that the map was not trained on; policies of older searches have none."""
    if "unseen_clips" not in config:
        return []
    clips, loss, uniform = config["unseen_clips"], config["unseen_loss"], config["uniform_loss"]
    deviation = config["unseen_error"]
    if not isinstance(loss, float) or not isinstance(uniform, float) or not isinstance(deviation, float):
        words = f"too few unseen clips ({clips}) to tell whether these frames are better than uniform ones (8 needed)"
        return [Fact("unseen", None, words)]
    verdict = "" if uniform - loss > deviation else ": nothing shows that they are better"
    error = f"standard error of the difference {deviation:.2g}"
    words = f"on {clips} unseen clips: loss {loss:.4g} against {uniform:.4g} of uniform frames ({error}){verdict}"
    return [Fact("unseen", uniform - loss, words)]


class SearchedFrames(FrameSelector):
    """Frames nearest, together, to the feature that a policy predicts.

    Args:
        policy: from `search_frames` or `tamis.load_policy`.
        distinct: never the same frame twice. The thesis lets frames repeat, which weights them for a model that takes
            the mean; to a model that looks at motion a repeated frame tells nothing.
    """

    needs_features = True

    def __init__(self, policy: FramePolicy, *, distinct: bool = False) -> None:
        self.policy, self.distinct = policy, distinct

    @functools.cached_property
    def _map(self) -> torch.nn.Module:
        return self.policy.build_map()

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": self.policy, "distinct": self.distinct}  # the network is built again where it is used

    def pick(self, view: ClipView, n: int) -> np.ndarray:
        """Stage 3, Eq. (5.5).

        Args:
            view: the clip, with features, of at least ``n`` frames.
            n: number of frames, >= 1.
        """
        return self.search(view, n).frames

    def search(self, view: ClipView, n: int) -> GLSResult:
        """Stage 3 with its cost and evaluations.

        Args:
            view: the clip, with features, of at least ``n`` frames.
            n: number of frames, >= 1.

        Raises:
            PolicyError: features of another size than the policy's.
        """
        rows, target = self._rows_and_target(view)
        config = GLSConfig(budget=max(self.policy.budget, view.size + 1))
        objective = CosineObjective(rows, target)
        if not self.distinct:
            return guided_local_search(objective, n, config=config)
        alone = objective.costs(np.arange(view.size)[:, None])
        start = np.argsort(alone, kind="stable")[:n]  # distinct, and the result is never worse
        return guided_local_search(DistinctFrames(objective), n, config=config, start=start, frame_costs=alone)

    def scores(self, view: ClipView) -> np.ndarray:
        """The cosine between each frame alone and the prediction."""
        rows, target = self._rows_and_target(view)
        alone: np.ndarray = 1.0 - CosineObjective(rows, target).costs(np.arange(view.size)[:, None])
        return alone

    def _rows_and_target(self, view: ClipView) -> tuple[np.ndarray, np.ndarray]:
        features = self._features(view)
        self.policy.check(features=features)
        scale = {name: tensor.numpy() for name, tensor in self.policy.scale.items()}
        rows = clip_features(features, scale["mean"], scale["std"], self.policy.time_waves, self.policy.time_weight)
        with torch.inference_mode():
            batch = torch.from_numpy(rows).float()[None]
            target = self._map(batch, torch.ones(batch.shape[:2], dtype=torch.bool))[0]
        return rows, target.double().numpy()
