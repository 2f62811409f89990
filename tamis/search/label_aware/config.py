"""The settings of both label-aware searches, and the space that triples are searched in."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from tamis.core.checks import check_choice, check_int, check_range, check_type
from tamis.core.rng import check_seed
from tamis.optimizers.mrmr import multisets
from tamis.optimizers.predictor import PredictorConfig
from tamis.search.label_aware.reward import REWARDS
from tamis.search.run import adjustable
from tamis.transforms.images.menu import Menu, make_menu
from tamis.transforms.images.ops import OPERATIONS

__all__ = ["SPACE", "LabelAwareConfig", "VetoConfig"]

SPACE = multisets(len(OPERATIONS), 3)


@dataclass(frozen=True, kw_only=True)
class LabelAwareConfig:
    """Settings of `search_label_aware` with ``base="triples"``.

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
        check_int("warmup", self.warmup, low=1)
        if check_int("iterations", self.iterations, low=1) < self.warmup:
            raise ValueError(
                f"iterations={self.iterations}: must be >= warmup={self.warmup}, the random ones among them; lower "
                "warmup too"
            )
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


@dataclass(frozen=True, kw_only=True)
class VetoConfig:
    """Settings of `search_label_aware` on a base with a menu.

    Attributes:
        base: ``"randaugment"`` or ``"trivialaugment"``.
        add: names of operations beside the base's own.
        chances: for each of these the chance of being applied by itself, 0: drawn like the base's own.
        operations: drawn for an image, of RandAugment.
        magnitude: of RandAugment, 0..30.
        levels: shares of the magnitude that are judged, increasing, the last 1.
        margin: share of its probability that a class may lose under an operation, in [0, 1): all of it under an added
            one, what is beyond the classes that it suits best under one of the base's own.
        false_discovery: bound on the share of vetoes that are chance, in (0, 1).
        shrinkage: images' worth of trust in no harm, >= 0.
        batch_size: images a forward.
        seed: of everything drawn.
    """

    base: str = "randaugment"
    add: tuple[str, ...] = ()
    chances: tuple[float, ...] = adjustable(())
    operations: int = adjustable(2)
    magnitude: int = 9
    levels: tuple[float, ...] = (0.5, 1.0)
    margin: float = adjustable(0.2)
    false_discovery: float = adjustable(0.1)
    shrinkage: float = adjustable(5.0)
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("margin", self.margin, low=0, high=1, open_high=True)
        check_range("false_discovery", self.false_discovery, low=0, high=1, open_low=True, open_high=True)
        check_range("shrinkage", self.shrinkage, low=0)
        check_int("batch_size", self.batch_size, low=1)
        check_seed(self.seed)
        rising = all(a < b for a, b in pairwise(self.levels))
        if not self.levels or not rising or self.levels[0] <= 0 or self.levels[-1] != 1:
            raise ValueError(f"levels={self.levels}: must increase from above 0 to 1, e.g. (0.5, 1.0)")

    @property
    def menu(self) -> Menu:
        """The menu that is judged."""
        added = dict(zip(self.add, self.chances, strict=True))
        return make_menu(self.base, added, operations=self.operations, magnitude=self.magnitude)
