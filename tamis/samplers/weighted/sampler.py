"""`WeightedSampler`: indices in proportion to weights, for any number of items, resumable and the same on every rank.

What `torch.utils.data.WeightedRandomSampler` lacks: an order that is a pure function of (seed, epoch, weights), exact
resume, weights that change between epochs, more than 2^24 items, and errors where the mistake is made. The
mathematics and its sources are in `tamis.samplers.weighted.draws`.

| symbol | name | shape | dtype |
|---|---|---|---|
| w_i | weights | [N] | float32 or float64, >= 0 |
| n | num_samples | scalar | int, >= 1 |
| (sum w)^2 / sum w^2 | effective_sample_size | scalar | float, in [1, N] |

**Deviations** from torch's sampler: `num_samples` may be left out; an item of weight zero is never drawn (torch draws
it without replacement when the others run out); the index stream of a torch seed is not reproduced.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from tamis.core.checks import check_choice
from tamis.core.errors import NoEffectWarning
from tamis.samplers.base import StatefulSampler
from tamis.samplers.weighted.draws import (
    CHUNK,
    CdfTable,
    Tags,
    cdf_table,
    cumulated,
    invert,
    race,
    race_limit,
    random_points,
    systematic,
)  # fmt: skip

__all__ = ["WeightedSampler", "effective_sample_size"]

Weights = Sequence[float] | np.ndarray | torch.Tensor

BLOCK = 1 << 15  # draws of one random stream: what a seek has to draw again
PIECE = 1 << 13  # indices in an array that is given out: as a list it still fits the cache
STREAM = 0x77736D70  # first word of this sampler's keys: keeps its streams apart from others with the same seed


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 of weights [N] >= 0, not all zero: N for equal weights, 1 if one item has all.

    Args:
        weights: [N], finite, >= 0, at least one above 0.
    """
    peak = weights.max()
    total = square = 0.0
    for first in range(0, len(weights), CHUNK):
        scaled = np.divide(weights[first : first + CHUNK], peak, dtype=np.float64)
        total += float(scaled.sum())
        square += float(np.dot(scaled, scaled))
    return total**2 / square


class _Checked(NamedTuple):
    """Weights that passed `_check_weights`, and what the draws need to know of them."""

    array: np.ndarray  # float32/float64 [N]
    checksum: int  # shows a change behind our back
    peak: float
    positive: int


def _checksum(weights: np.ndarray) -> int:
    """CRC-32 of the bytes of ``weights``, contiguous."""
    return zlib.crc32(weights.data)


def _check_weights(weights: Weights) -> _Checked:
    """``weights`` as a float array (not copied if it is one already) with its facts.

    Raises:
        TypeError: not numbers.
        ValueError: not one-dimensional, empty, negative, NaN, infinite, all zero, or too large to be summed.
    """
    if isinstance(weights, torch.Tensor):
        tensor = weights.detach().cpu()
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    else:
        array = np.asarray(weights)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"weights: must be one-dimensional and not empty, got shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"weights: must be numbers, got {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array)
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(array.sum(dtype=np.float64))
    if not np.isfinite(total) or array.min() < 0:
        bad = np.flatnonzero(~np.isfinite(array) | (array < 0))
        if len(bad):
            raise ValueError(f"weights[{bad[0]}]={array[bad[0]]}: must be finite and >= 0 ({len(bad)} are not)")
        raise ValueError("weights: their sum exceeds the largest float64; divide them by their maximum")
    if total == 0:
        raise ValueError(f"weights: all {len(array)} are zero; at least one must be positive")
    return _Checked(array, _checksum(array), float(array.max()), int(np.count_nonzero(array)))


class WeightedSampler(StatefulSampler):
    """Draws item i with probability ``weights[i] / weights.sum()``.

    The order is a pure function of (seed, epoch, weights), the same on every rank: give it to a `DataLoader`, to
    `Accelerator.prepare` or to `tamis.callbacks.attach`, and never shard it. Call `set_epoch` for a new order.

    Args:
        weights: [N] numbers >= 0, at least one above 0: list, numpy array or tensor. Arrays and tensors of float32
            or float64 are kept, not copied: change them through `set_weights`, never in place (that is an error).
        num_samples: indices an epoch yields, >= 1. Left out: N, or without replacement the number of non-zero
            weights, which is also its upper limit there.
        replacement: ``False``: no index comes twice; each next one is drawn in proportion among those left.
        seed: in [0, 2**63).
        method: ``"independent"`` draws, or ``"systematic"``: item i comes floor(n p_i) or ceil(n p_i) times in an
            epoch of n, in random order. Less variance and faster, but draws are not independent (two of one item
            avoid or attract each other); needs ``replacement=True``.

    A seek or resume costs one block of 32 768 draws with independent replacement, else the drawing of the epoch.

    Raises:
        TypeError: weights that are not numbers, ``replacement`` not a bool.
        ValueError: bad weights (the message names the first), too many samples, an unknown or unfitting method.

    Warns:
        NoEffectWarning: all weights are equal.
    """

    def __init__(
        self,
        weights: Weights,
        num_samples: int | None = None,
        *,
        replacement: bool = True,
        seed: int = 0,
        method: str = "independent",
    ) -> None:
        checked = _check_weights(weights)
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement={replacement!r}: must be True or False")
        if num_samples is None:
            num_samples = len(checked.array) if replacement else checked.positive
        super().__init__(num_samples, seed=seed)
        self.data_size = len(checked.array)
        self.replacement = replacement
        self.method = check_choice("method", method, ("independent", "systematic"))
        if method == "systematic" and not replacement:
            raise ValueError("method='systematic': must go with replacement=True; leave the method out")
        self._check_enough(checked)
        if len(checked.array) > 1 and checked.array.min() == checked.peak:
            warnings.warn(
                f"{type(self).__name__}: all {len(checked.array)} weights are equal, so the draws are uniform; "
                "use torch's RandomSampler, or give weights that differ",
                NoEffectWarning,
                stacklevel=2,
            )
        self._next: _Checked | None = None  # set_weights' weights, until an iteration begins with them
        self._begun: int | None = None  # the epoch that was begun last
        self._resumed: int | None = None  # the epoch that a loaded state was in: it keeps its weights
        self._loaded = False  # a state was loaded and no iteration begun since
        self._use(checked)

    @property
    def weights(self) -> np.ndarray:
        """The weights [N] of the next iteration, read-only: `set_weights` changes them."""
        view = (self._next or self._now).array.view()
        view.flags.writeable = False
        return view

    @property
    def effective_sample_size(self) -> float:
        """(sum w)^2 / sum w^2 of `weights`: so many equal weights would vary as much. In [1, N]."""
        return effective_sample_size((self._next or self._now).array)

    def set_weights(self, weights: Weights) -> None:
        """Use ``weights`` [N] from the next iteration on; a running one keeps its own.

        After a resume inside an epoch, the rest of that epoch keeps its weights too: weights that are set before it
        is gone through wait until `set_epoch` chooses another epoch.

        Args:
            weights: [N] as many as before, as `WeightedSampler` takes them.

        Raises:
            ValueError: bad weights, another length, or fewer non-zero weights than draws without replacement.
        """
        checked = _check_weights(weights)
        if len(checked.array) != len(self._now.array):
            raise ValueError(f"weights: must have {len(self._now.array)} items as before, got {len(checked.array)}")
        self._check_enough(checked)
        self._next = checked
        if not self._loaded:
            self._resumed = None

    def indices(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """The order of ``epoch`` from position ``start`` on, under the weights of the iteration last begun.

        Args:
            epoch: an integer >= 0.
            start: how many indices are left out, in [0, len].
        """
        now, count, key = self._now, self.num_samples, (STREAM, self.seed, epoch)

        def drawn_at_once() -> tuple[np.ndarray, Tags]:
            if self.replacement:
                return systematic(now.array, _total(now.array), count, *key)
            return race(now.array, now.peak, now.positive, count, self._race_limit(), *key)

        if self.replacement and self.method == "independent":
            return _drawn(self._cdf_table(), start, count, key)
        return _unpacked(drawn_at_once, start, count)

    def logs(self, position: int | None = None) -> dict[str, float]:
        """Scalars for a trainer's log: ``tamis/ess``, the effective sample size, and ``tamis/distinct``.

        Args:
            position: as `StatefulSampler.logs`; both speak of the whole epoch.
        """
        return {"tamis/ess": effective_sample_size(self._now.array), **super().logs(position)}

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch and weights: ``"weights"`` of the epoch last begun, ``"next_weights"`` of the one after it."""
        return {
            **super().state_dict(),
            "replacement": self.replacement,
            "method": self.method,
            "weights": torch.from_numpy(self._now.array.copy()),
            "next_weights": None if self._next is None else torch.from_numpy(self._next.array.copy()),
            "begun": self._begun,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: the state is of a sampler with another length, ``num_samples``, ``replacement`` or ``method``.
        """
        mine = {"number of weights": len(self._now.array), "replacement": self.replacement, "method": self.method}
        saved = {**state, "number of weights": len(state["weights"])}
        for name, value in mine.items():
            if saved[name] != value:
                raise ValueError(
                    f"{name}={value!r}, but the saved sampler had {saved[name]!r}: "
                    "build the sampler as it was when the state was saved, or start without the state"
                )
        now = _check_weights(state["weights"])
        after = None if state["next_weights"] is None else _check_weights(state["next_weights"])
        super().load_state_dict(state)
        self._use(now)
        self._next, self._begun, self._resumed, self._loaded = after, state["begun"], state["begun"], True

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the tables: they are built again where a copy is used."""
        return {**self.__dict__, "_table": None, "_limit": None}

    def _begin(self) -> int:
        if self._next is not None and self._resumed != self.epoch:
            self._use(self._next)
        self._begun, self._loaded = self.epoch, False
        if _checksum(self._now.array) != self._now.checksum:
            raise ValueError("weights: were changed in place; call set_weights(new_weights) instead")
        return super()._begin()

    def _use(self, checked: _Checked) -> None:
        self._now = checked
        self._next = self._resumed = None
        self._table: CdfTable | None = None
        self._limit: float | None = None

    def _check_enough(self, checked: _Checked) -> None:
        if not self.replacement and self.num_samples > checked.positive:
            raise ValueError(
                f"num_samples={self.num_samples}: must be <= {checked.positive}, the number of non-zero weights, "
                "when replacement=False; draw fewer, or pass replacement=True"
            )

    def _cdf_table(self) -> CdfTable:
        if self._table is None:
            self._table = cdf_table(self._now.array, _total(self._now.array))
        return self._table

    def _race_limit(self) -> float:
        if self._limit is None:
            self._limit = race_limit(self._now.array, self._now.peak, self._now.positive, self.num_samples)
        return self._limit


def _total(weights: np.ndarray) -> float:
    """The end of the running sum: the sum in the very order of `cumulated`."""
    total = 0.0
    for _, sums in cumulated(weights):
        total = float(sums[-1])
    return total


def _drawn(table: CdfTable, start: int, count: int, key: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Independent draws ``start`` to ``count``: block b comes from the stream (key, b)."""
    for first in range(start - start % BLOCK, count, BLOCK):
        points = random_points(min(BLOCK, count - first), *key, first // BLOCK)
        items = invert(table, points[max(0, start - first) :])
        for piece in range(0, len(items), PIECE):
            yield items[piece : piece + PIECE]


def _unpacked(draw: Callable[[], tuple[np.ndarray, Tags]], start: int, count: int) -> Iterator[np.ndarray]:
    """Items ``start`` to ``count`` of an epoch that is drawn at once, when the first of them is asked for."""
    if start < count:
        packed, tags = draw()
        for first in range(start, count, PIECE):
            yield tags.unpack(packed[first : first + PIECE])
