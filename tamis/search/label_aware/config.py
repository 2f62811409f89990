"""The settings of a label-aware search, and the space that it searches."""

from __future__ import annotations

from dataclasses import dataclass, field

from tamis.core.checks import check_choice, check_int, check_range, check_type
from tamis.core.rng import check_seed
from tamis.optimizers.mrmr import multisets
from tamis.optimizers.predictor import PredictorConfig
from tamis.search.label_aware.reward import REWARDS
from tamis.search.run import adjustable
from tamis.transforms.images.ops import OPERATIONS

__all__ = ["SPACE", "LabelAwareConfig"]

SPACE = multisets(len(OPERATIONS), 3)


@dataclass(frozen=True, kw_only=True)
class LabelAwareConfig:
    """Settings of `search_label_aware`.

    Attributes:
        iterations: T, passes over the reward images, >= ``warmup``.
        warmup: T_0, random ones among them, >= 1.
        triples: N_cand, triples a label in the policy, 1..816.
        alpha: weight of redundancy, >= 0.
        reward: ``"recall"`` (the paper) or ``"probability"`` of the true class, less noisy with few images.
        label_aware: False searches one policy for all labels.
        shrinkage: images' worth of trust in the mean of all labels, >= 0.
        refit_every: iterations from one training of the predictor to the next.
        candidates: how many are mutated, unseen and explored, each time.
        parents: what is mutated, ``"last"`` or ``"best"``.
        predictor: its hyper-parameters.
        repeats: passes an iteration, with other magnitudes.
        batch_size: images a forward.
        seed: of everything drawn.
    """

    iterations: int = adjustable(500)
    warmup: int = 100
    triples: int = adjustable(100)
    alpha: float = adjustable(2.5)
    reward: str = "recall"
    label_aware: bool = True
    shrinkage: float = adjustable(10.0)
    refit_every: int = 10
    candidates: tuple[int, ...] = (10, 50, 40)
    parents: str = "last"
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    repeats: int = 1
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("refit_every", "repeats", "batch_size"):
            check_int(name, getattr(self, name), low=1)
        check_int("iterations", self.iterations, low=check_int("warmup", self.warmup, low=1))
        check_int("triples", self.triples, low=1, high=len(SPACE))
        for name in ("alpha", "shrinkage"):
            check_range(name, getattr(self, name), low=0)
        check_choice("parents", self.parents, ("last", "best"))
        check_choice("reward", self.reward, REWARDS)
        check_seed(self.seed)
        check_type("predictor", self.predictor, PredictorConfig, "a PredictorConfig, such as PredictorConfig(width=64)")
        mixture = tuple(check_int("candidates", count, low=0) for count in self.candidates)
        if len(mixture) != 3 or sum(mixture) < self.refit_every:
            raise ValueError(
                f"candidates={mixture}: must be three counts >= 0, together >= refit_every={self.refit_every}"
            )
        object.__setattr__(self, "candidates", mixture)
