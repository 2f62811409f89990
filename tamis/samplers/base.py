"""What every tamis sampler keeps: a global order that is a pure function of (seed, epoch, state).

* The order is the same on every rank; Accelerate and Trainer deal whole batches out, so a sampler never shards.
* The *sampler's* state (seed, epoch, weights) is one thing, an *iterator's* position another. Trainer and
  Accelerate skip consumed batches by themselves, torchdata saves the iterator's own state, and a plain loop
  calls `StatefulSampler.seek`; so a position is never carried over by accident.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from itertools import chain
from operator import length_hint
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from tamis.core.checks import check_int
from tamis.core.rng import check_seed

__all__ = ["SamplerIterator", "StatefulSampler"]


class StatefulSampler(Sampler[int]):
    """Base class: seed, epoch, exact resume. A subclass writes `indices` and its own state.

    Args:
        num_samples: indices an epoch yields, >= 1; `len` of the sampler.
        seed: in [0, 2**63); with the epoch it fixes the order.

    Attributes:
        data_size: number of items of the data set it draws from, if it knows: `tamis.callbacks.attach` then refuses
            another data set.
        iterations: how many passes were begun; `tamis.callbacks.attach` sees by it that a trainer draws from it.
    """

    data_size: int | None = None

    def __init__(self, num_samples: int, *, seed: int = 0) -> None:
        self.num_samples = check_int("num_samples", num_samples, low=1)
        self.seed = check_seed(seed)
        self.epoch = 0
        self.iterations = 0
        self._start = 0

    @abstractmethod
    def indices(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """The order of ``epoch`` from position ``start`` on, as int64 arrays of any length.

        Must be a pure function of (seed, epoch, start, state): ``start`` only skips, it changes nothing after.

        Args:
            epoch: an integer >= 0.
            start: how many indices are left out, in [0, len].
        """

    def __len__(self) -> int:
        return self.num_samples

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_samples={self.num_samples}, seed={self.seed}, epoch={self.epoch})"

    def __iter__(self) -> SamplerIterator:
        return SamplerIterator.over(self, self._begin())

    def arrays(self) -> Iterator[np.ndarray]:
        """What `iter` would yield, as int64 arrays of any length: for loops that index arrays or tensors."""
        return self.indices(self.epoch, self._begin())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next `iter` yields (>= 0).

        Args:
            epoch: an integer >= 0.
        """
        self.epoch = check_int("epoch", epoch, low=0)

    def seek(self, position: int) -> None:
        """Let the next `iter`, and only that one, start at ``position`` (0 <= position <= len).

        Args:
            position: how many indices are left out, in [0, len].
        """
        self._start = check_int("position", position, low=0, high=len(self))

    def logs(self, position: int | None = None) -> dict[str, float]:
        """Scalars for a trainer's log: ``tamis/distinct``, the share of distinct samples among the epoch's draws.

        Where the sampler knows the size of its data; the order is gone through once an epoch.

        Args:
            position: indices of the epoch consumed so far, on all ranks together, for a subclass that tells what was
                drawn up to there; None: of the whole epoch.
        """
        size = self.data_size
        if size is None:
            return {}
        known = getattr(self, "_distinct", None)
        if known is None or known[0] != self.epoch:
            seen = np.zeros(size, bool)
            for part in self.indices(self.epoch, 0):
                seen[part] = True
            known = self._distinct = (self.epoch, float(seen.sum()) / len(self))
        return {"tamis/distinct": known[1]}

    def _begin(self) -> int:
        """Called as each iteration begins; returns, and uses up, its position. A subclass may add to it."""
        start, self._start = self._start, 0
        self.iterations += 1
        return start

    def state_dict(self) -> dict[str, Any]:
        """Everything but the position. JSON values, and tensors or arrays for what grows with the data."""
        return {"seed": self.seed, "epoch": self.epoch, "num_samples": self.num_samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: the state is of a sampler with another ``num_samples``.
        """
        if state["num_samples"] != self.num_samples:
            raise ValueError(
                f"num_samples={self.num_samples}, but the saved sampler had {state['num_samples']}: "
                "build the sampler as it was when the state was saved, or start without the state"
            )
        self.seed = check_seed(state["seed"])
        self.set_epoch(state["epoch"])


class SamplerIterator(chain):  # type: ignore[type-arg]
    """One pass over an epoch, at the speed of a list iterator, that knows its position.

    `itertools.chain` does the stepping in C; the position is what the chunk in hand has left, counted back
    from the chunk's end. torchdata's `StatefulDataLoader` saves and restores it.
    """

    _source: _Chunks

    @classmethod
    def over(cls, sampler: StatefulSampler, start: int) -> SamplerIterator:
        """An iterator over ``sampler``'s present epoch from position ``start`` on.

        Args:
            sampler: whose indices are gone through.
            start: how many indices are left out, in [0, len].
        """
        source = _Chunks(sampler, sampler.epoch, start)
        iterator: SamplerIterator = cls.from_iterable(source)  # type: ignore[assignment]
        iterator._source = source
        return iterator

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of indices consumed."""
        return {"epoch": self._source.epoch, "position": self._source.position()}

    @property
    def consumed(self) -> int:
        """How many indices were taken from it, jumps not counted."""
        return self._source.consumed()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where `state_dict` was taken.

        Args:
            state: what `state_dict` gave.
        """
        self._source.open(state["epoch"], state["position"])


class _Chunks(Iterator[Iterator[int]]):
    """The chunks of an epoch as list iterators; remembers the one it gave last."""

    def __init__(self, sampler: StatefulSampler, epoch: int, start: int) -> None:
        self.sampler = sampler
        self.chunk: Iterator[int] = iter(())
        self.earlier = self.start = self.end = 0
        self.open(epoch, start)

    def open(self, epoch: int, start: int) -> None:
        self.earlier = self.consumed()
        deque(self.chunk, maxlen=0)  # what the chain still holds of an earlier position
        self.epoch = epoch
        self.start = self.end = check_int("position", start, low=0, high=len(self.sampler))
        self.arrays = self.sampler.indices(epoch, self.end)

    def position(self) -> int:
        return self.end - length_hint(self.chunk)

    def consumed(self) -> int:
        return self.earlier + self.position() - self.start

    def __next__(self) -> Iterator[int]:
        indices: list[int] = next(self.arrays).tolist()
        self.end += len(indices)
        self.chunk = iter(indices)
        return self.chunk
