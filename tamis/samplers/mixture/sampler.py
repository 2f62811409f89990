"""`MixtureSampler`: several data sets in one order, each with a share of the draws.

The shares are kept block by block, not only on average: in each block of `BLOCK` draws a source comes as often as its
share says, rounded up or down (see `counts`), in an order that is random within the block. So the mixture at a position
is known without the draws before it, and a run goes on at any position, on any number of processes.

Each source is gone through in shuffled passes: no item comes twice before every item of its source came once.

**Unstated** elsewhere and chosen here: with ``exhausted="repeat"`` a source's passes go on over the epochs; the other
policies begin each epoch with full sources. A change of weights acts from a position that was not begun.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import numpy_generator
from tamis.samplers.base import StatefulSampler
from tamis.samplers.mixture.counts import block_counts, check_shares, limited_counts, longest, tempered

__all__ = ["MixtureSampler"]

STREAM = 0x6D697874  # first word of this class' keys
BLOCK = 1 << 14
ON_END = ("repeat", "stop", "renormalise")

Weights = Mapping[str, float]
Change = tuple[int, int, np.ndarray]  # epoch, position in it, shares [S] from there on


class MixtureSampler(StatefulSampler):
    """Draws from several data sets by weight. Its indices count through the sources one after the other (`dataset`).

    Args:
        sources: name -> data set, or its length.
        weights: name -> share of the draws, >= 0, of any sum; or a function of the epoch that gives them (a curriculum
            over sources). Left out: by size.
        num_samples: indices an epoch yields. Left out: as many as the sources have items, or with ``"stop"`` as many as
            come before the first source is used up; with the last two policies also the upper limit.
        temperature: weights are raised to 1 / temperature: above 1 small sources come more often, > 0.
        exhausted: when a source has given all its items: ``"repeat"`` shuffles it anew; ``"stop"`` ends the epoch
            before that; ``"renormalise"`` goes on with the others, by their weights.
        tokens_per_item: name -> mean tokens of an item, > 0: weights are then shares of tokens, not of items.
        seed: in [0, 2**63).

    Raises:
        TypeError, ValueError: bad weights, names or lengths; more samples than the policy allows.

    Warns:
        NoEffectWarning: the weights are those of the sizes: a plain shuffle of all items does the same.
    """

    def __init__(
        self,
        sources: Mapping[str, Sized | int],
        weights: Weights | Callable[[int], Weights] | None = None,
        *,
        num_samples: int | None = None,
        temperature: float = 1.0,
        exhausted: str = "repeat",
        tokens_per_item: Weights | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(sources, Mapping) or not sources:
            raise TypeError("sources: must be a mapping from names to data sets or lengths, and not empty")
        self.names = tuple(map(str, sources))
        lengths = (check_int(f"sources[{name!r}]", _length(data), low=1) for name, data in sources.items())
        self.sizes = np.fromiter(lengths, np.int64, len(sources))
        self._sources = tuple(sources.values())
        self._starts = np.cumsum(self.sizes) - self.sizes
        self.data_size = int(self.sizes.sum())
        self.exhausted = check_choice("exhausted", exhausted, ON_END)
        self.temperature = check_range("temperature", temperature, low=0, open_low=True)
        self._tokens = None if tokens_per_item is None else check_shares(tokens_per_item, self.names)
        if self._tokens is not None and not (self._tokens > 0).all():
            raise ValueError("tokens_per_item: must be > 0")
        self._schedule = weights if callable(weights) else None
        first = dict(zip(self.names, self.sizes.tolist(), strict=True)) if weights is None else weights
        shares = self._shares(self._schedule(0) if self._schedule is not None else first)  # type: ignore[arg-type]
        self._changes: list[Change] = [(0, 0, shares)]
        self._known = 1  # epochs that the schedule was asked for
        self._begun = -1  # the last epoch that was begun
        most = longest(self.sizes, shares, self.exhausted)
        super().__init__(most if num_samples is None else num_samples, seed=seed)
        if self.exhausted != "repeat" and self.num_samples > most:
            raise ValueError(f"num_samples={num_samples}: must be <= {most} with exhausted={exhausted!r}")
        self._forget()
        if self._schedule is None and len(shares) > 1 and np.allclose(shares, self.sizes / self.data_size):
            warnings.warn(
                "MixtureSampler: the weights are those of the sources' sizes, so a plain shuffle of all items does the "
                "same; give other weights or a temperature",
                NoEffectWarning,
                stacklevel=2,
            )

    @property
    def dataset(self) -> Any:
        """The sources one after the other, which the indices count through: what to train on.

        Raises:
            TypeError: the sampler was made from lengths.
        """
        if any(isinstance(source, int) for source in self._sources):
            raise TypeError("dataset: the sampler was made from lengths; concatenate the data sets in the same order")
        if all(type(source).__module__.startswith("datasets.") for source in self._sources):
            from datasets import concatenate_datasets

            return concatenate_datasets(list(self._sources))
        parts: list[Dataset[Any]] = list(self._sources)  # type: ignore[arg-type]
        return ConcatDataset(parts)

    def source_of(self, indices: Any) -> np.ndarray:
        """The number of the source, in the order of ``names``, of each index: int64, of their shape."""
        found: np.ndarray = np.searchsorted(self._starts, np.asarray(indices), side="right") - 1
        return found

    def set_weights(self, weights: Weights, *, epoch: int | None = None, position: int = 0) -> None:
        """Other weights from an epoch, or from a position inside it, on.

        Args:
            weights: name -> weight, as those of the class.
            epoch: left out: the next one that has not begun.
            position: draws of that epoch that keep the earlier weights: steps times the samples of a step, on all
                processes. In [0, num_samples).

        Raises:
            ValueError: the epoch has begun, weights that a schedule gives, or weights that the exhaustion policy cannot
                serve for an epoch.
        """
        if self._schedule is not None:
            raise ValueError("set_weights: the weights are a function of the epoch; change the function")
        epoch = self._begun + 1 if epoch is None else check_int("epoch", epoch, low=0)
        if epoch <= self._begun:
            raise ValueError(f"epoch={epoch}: has begun, and its order is settled; must be >= {self._begun + 1}")
        position = check_int("position", position, low=0, high=self.num_samples - 1)
        self._change(epoch, position, self._shares(weights))

    def shares(self, epoch: int | None = None, position: int = 0) -> dict[str, float]:
        """The share of each source at a position of an epoch (the present one by default)."""
        epoch = self.epoch if epoch is None else check_int("epoch", epoch, low=0)
        self._ask(epoch)
        now = [shares for at, place, shares in self._changes if (at, place) <= (epoch, position)][-1]
        return dict(zip(self.names, now.tolist(), strict=True))

    def drawn(self, position: int | None = None, *, epoch: int | None = None) -> dict[str, int]:
        """What was really drawn of each source in an epoch up to a position; by default the whole present epoch."""
        epoch = self.epoch if epoch is None else check_int("epoch", epoch, low=0)
        stop = len(self) if position is None else check_int("position", position, low=0, high=len(self))
        bounds, upto = self._plan(epoch)
        block = int(np.searchsorted(bounds, stop, side="right")) - 1
        total = upto[block]
        if bounds[block] < stop:
            part = self._block(epoch, block)[: stop - bounds[block]]
            total = total + np.bincount(self.source_of(part), minlength=len(self.names))
        return dict(zip(self.names, total.tolist(), strict=True))

    def logs(self, position: int | None = None) -> dict[str, float]:
        """For a trainer's log: the share of each source in the present epoch so far.

        Args:
            position: indices of the epoch consumed so far, on all ranks together; None: all of them.
        """
        position = len(self) if position is None else position
        counts = self.drawn(position)
        return {f"tamis/share_{name}": count / max(position, 1) for name, count in counts.items()}

    def indices(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """The order of ``epoch`` from position ``start`` on, block by block."""
        bounds, _ = self._plan(epoch)
        for block in range(int(np.searchsorted(bounds, start, side="right")) - 1, len(bounds) - 1):
            yield self._block(epoch, block)[max(start - int(bounds[block]), 0) :]

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch, sources, policy, and all changes of weights so far."""
        changes = [[epoch, position, shares.tolist()] for epoch, position, shares in self._changes]
        mixture = {"names": list(self.names), "sizes": self.sizes.tolist(), "exhausted": self.exhausted}
        return {**super().state_dict(), **mixture, "changes": changes, "known": self._known, "begun": self._begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, with its weights.

        Raises:
            ValueError: the state is of a sampler with other sources or another policy.
        """
        mine = {"names": list(self.names), "sizes": self.sizes.tolist(), "exhausted": self.exhausted}
        for name, value in mine.items():
            if state[name] != value:
                raise ValueError(
                    f"{name}={value!r}, but the saved sampler had {state[name]!r}: "
                    "build the sampler as it was when the state was saved, or start without the state"
                )
        super().load_state_dict(state)
        self._changes = [(int(e), int(p), np.array(s, np.float64)) for e, p, s in state["changes"]]
        self._known, self._begun = int(state["known"]), int(state["begun"])
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what can be computed again."""
        return {**self.__dict__, "_passes": {}, "_plans": {}, "_totals": []}

    def _begin(self) -> int:
        self._begun = max(self._begun, self.epoch)
        return super()._begin()

    def _forget(self) -> None:
        self._passes: dict[tuple[int, int], np.ndarray] = {}
        self._plans: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._totals: list[np.ndarray] = []

    def _shares(self, weights: Weights) -> np.ndarray:
        shares = tempered(check_shares(weights, self.names), self.temperature)
        if self._tokens is not None:
            shares /= self._tokens
        shares /= shares.sum()
        return shares

    def _change(self, epoch: int, position: int, shares: np.ndarray) -> None:
        if self.exhausted != "repeat":
            most = longest(self.sizes, shares, self.exhausted)
            if self.num_samples > most:
                raise ValueError(
                    f"weights: with exhausted={self.exhausted!r} they last for {most} draws, and an epoch has "
                    f"{self.num_samples}; use exhausted='repeat', or a smaller num_samples from the beginning"
                )
        kept = [change for change in self._changes if change[:2] != (epoch, position)]
        self._changes = sorted([*kept, (epoch, position, shares)], key=lambda change: change[:2])
        self._forget()

    def _ask(self, epoch: int) -> None:
        """Have the schedule's weights of all epochs up to this one."""
        while self._schedule is not None and self._known <= epoch:
            self._change(self._known, 0, self._shares(self._schedule(self._known)))
            self._known += 1

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """First position of each block, and the end: int64 [B + 1]; items of each source before: int64 [B + 1, S]."""
        self._ask(epoch)
        if epoch not in self._plans:
            inside = [position for at, position, _ in self._changes if at == epoch]
            bounds = np.unique([*range(0, self.num_samples, BLOCK), *inside, self.num_samples]).astype(np.int64)
            before = [change for change in self._changes if change[:2] <= (epoch, 0)][-1]
            points = [before, *(change for change in self._changes if change[0] == epoch and change[1] > 0)]
            which = np.searchsorted([0, *(point[1] for point in points[1:])], bounds[:-1], side="right") - 1
            shares, draws = np.array([point[2] for point in points])[which], np.diff(bounds)
            offsets = numpy_generator(STREAM, self.seed, 0, epoch).random(len(draws))
            if self.exhausted == "repeat":
                counts = block_counts(shares, draws, offsets)
            else:
                counts = limited_counts(shares, draws, offsets, self.sizes)
            upto = np.concatenate([np.zeros_like(counts[:1]), np.cumsum(counts, axis=0)])
            self._plans = {epoch: (bounds, upto)}
        return self._plans[epoch]

    def _base(self, epoch: int) -> np.ndarray:
        """Items of each source that came in the epochs before."""
        if self.exhausted != "repeat":
            return np.zeros(len(self.sizes), np.int64)
        while len(self._totals) < epoch:
            total = self._plan(len(self._totals))[1][-1]
            self._totals.append(total + (self._totals[-1] if self._totals else 0))
        return self._totals[epoch - 1] if epoch else np.zeros(len(self.sizes), np.int64)

    def _block(self, epoch: int, block: int) -> np.ndarray:
        base, (_, upto) = self._base(epoch), self._plan(epoch)
        first, taken = base + upto[block], upto[block + 1] - upto[block]
        turn = 0 if self.exhausted == "repeat" else epoch
        parts = [self._items(s, int(first[s]), int(taken[s]), turn) for s in np.flatnonzero(taken).tolist()]
        order: np.ndarray = numpy_generator(STREAM, self.seed, 1, epoch, block).permutation(np.concatenate(parts))
        return order

    def _items(self, source: int, first: int, count: int, turn: int) -> np.ndarray:
        """Draws ``first`` to ``first + count`` of a source, whose passes are shuffled one by one."""
        size, pieces = int(self.sizes[source]), []
        while count:
            number, place = divmod(first, size)
            piece = self._pass(source, turn + number)[place : place + count]
            pieces.append(piece.astype(np.int64) + self._starts[source])
            first, count = first + len(piece), count - len(piece)
        return np.concatenate(pieces)

    def _pass(self, source: int, number: int) -> np.ndarray:
        """A shuffled pass through a source; the last one of each source is kept."""
        if (source, number) not in self._passes:
            self._passes = {key: kept for key, kept in self._passes.items() if key[0] != source}
            order = numpy_generator(STREAM, self.seed, 2, source, number).permutation(int(self.sizes[source]))
            small = order.astype(np.int32) if self.sizes[source] < 2**31 else order
            self._passes[source, number] = small
        return self._passes[source, number]


def _length(source: Sized | int) -> object:
    return len(source) if isinstance(source, Sized) else source
