"""`BatchSelector`: score a large candidate batch, train on the part that is worth it.

Two uses of one idea. RHO-LOSS (Mindermann et al., 2022, "Prioritized training on points that are learnable, worth
learning, and not yet learnt") keeps the best of each candidate batch; the ImageNet form of Swift Sampler (Yao et al.)
takes twice the crops needed and draws half of them in proportion to their sampling weights, without replacement.

| symbol | name | shape | dtype |
|---|---|---|---|
| S, the scores | scores | [B] | float |
| k | kept positions | [k] | int64, k = max(1, round(keep * B)) or min(keep, B) |

**Unstated** (chosen here): ties go to the lower position; where fewer than k scores are above zero, ``"sample"`` fills
up with a uniform choice of the others, so that every rank keeps the same number.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.distributed import rank
from tamis.core.rng import check_seed, numpy_generator
from tamis.samplers.weighted.draws import race

__all__ = ["BatchSelector"]

STREAM = 0x62746368  # first word of this class' keys: keeps its streams apart from others with the same seed


class BatchSelector:
    """Positions of a candidate batch to keep, from the scores that your model gave them.

    Args:
        keep: a share in (0, 1) of each batch, or a number of items >= 1.
        mode: ``"top"``, the largest scores, best first; ``"sample"``, drawn in proportion to the scores (>= 0)
            without replacement, in order of drawing.
        seed: in [0, 2**63). ``"sample"`` is a pure function of (seed, rank, epoch, step, scores); a step is one call.

    Raises:
        TypeError, ValueError: an argument out of range.
    """

    def __init__(self, keep: int | float, *, mode: str = "top", seed: int = 0) -> None:
        if isinstance(keep, float):
            self.keep: int | float = check_range("keep", keep, low=0, high=1, open_low=True, open_high=True)
        else:
            self.keep = check_int("keep", keep, low=1)
        self.mode = check_choice("mode", mode, ("top", "sample"))
        self.seed = check_seed(seed)
        self.epoch = 0
        self.step = 0

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """The positions to keep, int64 [k], on the device of ``scores``; counts one step.

        Args:
            scores: [B], finite; >= 0 to be sampled. No gradient flows through them.

        Raises:
            ValueError: not one-dimensional, empty, not finite, or negative in ``"sample"``.
        """
        values = scores.detach().double().cpu().numpy()
        if values.ndim != 1 or not values.size:
            raise ValueError(f"scores: must be one-dimensional and not empty, got shape {values.shape}")
        low = 0.0 if self.mode == "sample" else -math.inf
        bad = np.flatnonzero(~np.isfinite(values) | (values < low))
        if len(bad):
            bound = " and >= 0 to be sampled" if self.mode == "sample" else ""
            raise ValueError(f"scores[{bad[0]}]={values[bad[0]]}: must be finite{bound}")
        share = isinstance(self.keep, float)
        count = max(1, round(self.keep * len(values))) if share else min(int(self.keep), len(values))
        if self.mode == "top":
            kept = np.argsort(-values, kind="stable")[:count]
        else:
            kept = sample_positions(values, count, STREAM, self.seed, rank(), self.epoch, self.step)
        self.step += 1
        return torch.from_numpy(kept).to(scores.device)

    def set_epoch(self, epoch: int) -> None:
        """Begin ``epoch`` (>= 0) with step 0; the epoch that is already on goes on.

        Args:
            epoch: an integer >= 0.
        """
        if check_int("epoch", epoch, low=0) != self.epoch:
            self.epoch, self.step = int(epoch), 0

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"keep": self.keep, "mode": self.mode, "seed": self.seed, "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: the state is of a selector with another ``keep`` or ``mode``.
        """
        for name in ("keep", "mode"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}, but the saved selector had {state[name]!r}: "
                    "build the selector as it was when the state was saved, or start without the state"
                )
        self.seed = check_seed(state["seed"])
        self.epoch = check_int("epoch", state["epoch"], low=0)
        self.step = check_int("step", state["step"], low=0)


def sample_positions(weights: np.ndarray, count: int, *key: int) -> np.ndarray:
    """``count`` of the positions of ``weights`` [B] >= 0, drawn in proportion without replacement, int64 [count].

    Positions of weight zero come last, drawn uniformly and with a warning, and only if the others do not suffice.

    Args:
        weights: [N], finite, >= 0, at least one above 0.
        count: positions to draw, >= 1.
        key: integers that name the random stream.
    """
    positive = int(np.count_nonzero(weights))
    first = min(count, positive)
    kept = np.empty(0, np.int64)
    if first:
        packed, tags = race(weights, float(weights.max()), positive, first, math.inf, *key)
        kept = tags.unpack(packed)
    if first < count:
        warnings.warn(
            f"BatchSelector: only {positive} of {len(weights)} scores are above zero and {count} are to be kept; "
            "the rest was drawn uniformly. Keep fewer, or give more items a score",
            UserWarning,
            stacklevel=3,
        )
        zeros = np.flatnonzero(weights == 0)
        kept = np.concatenate([kept, numpy_generator(*key, 1).permutation(zeros)[: count - first]])
    return kept
