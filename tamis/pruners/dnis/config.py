"""Settings of DNIS; the package's docstring has the symbols."""

from __future__ import annotations

from dataclasses import dataclass

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.rng import check_seed

__all__ = ["DNISConfig"]


@dataclass(frozen=True, kw_only=True)
class DNISConfig:
    """Settings of `DNIS`.

    Attributes:
        blocks: L, how many blocks a table has (at most one a row), or their sizes from head to tail; the remaining
            rows are then one more block. Paper: 10, or hand-set sizes.
        block_by: ``count``: blocks of equally many rows; ``mass``: of equally many lookups. Not used with sizes.
        alpha_lr: size of alpha's step, > 0. Paper: 0.01.
        l1: weight of an L1 penalty on alpha, >= 0. The authors' code: 1e-5.
        xi: size of the look-ahead step of Eq. (6), >= 0; above 0 each step needs a training loss too, and dense
            gradients. Paper: both are tried; the code has 0.
        warm_up: share of the training before alpha moves, in [0, 1).
        decide_by: share of the training after which the cut is decided, in (warm_up, 1]; 1: at the cut itself.
        rank: ``contribution``: what a value adds to the loss' slope on the validation batches, (value x slope)^2;
            ``magnitude``: its square, as in the paper.
        axes: turn the tables to their principal axes after the warm-up if that leaves the validation loss as it is,
            as it does where rows meet in dot products only; else nothing is turned and the report says so. Set it to
            False if anything that the loss does not hold reads the tables.
        structured: keep whole columns per block; False: single values.
        eps: of Eq. (8), > 0.
        seed: of the control's signs.
    """

    blocks: int | tuple[int, ...] = 10
    block_by: str = "count"
    alpha_lr: float = 0.01
    l1: float = 0.0
    xi: float = 0.0
    warm_up: float = 0.2
    decide_by: float = 0.5
    rank: str = "contribution"
    axes: bool = True
    structured: bool = True
    eps: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.blocks, tuple):
            if not self.blocks:
                raise ValueError("blocks=(): must name at least one size, or be the number of blocks")
            for size in self.blocks:
                check_int("blocks", size, low=1)
        else:
            check_int("blocks", self.blocks, low=1, high=2**15 - 1)
        check_choice("block_by", self.block_by, ("count", "mass"))
        check_choice("rank", self.rank, ("contribution", "magnitude"))
        for name in ("alpha_lr", "eps"):
            check_range(name, getattr(self, name), low=0, open_low=True)
        for name in ("l1", "xi"):
            check_range(name, getattr(self, name), low=0)
        check_range("warm_up", self.warm_up, low=0, high=1, open_high=True)
        check_range("decide_by", self.decide_by, low=self.warm_up, high=1, open_low=True)
        check_seed(self.seed)
