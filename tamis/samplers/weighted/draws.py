"""Draws in proportion to weights, as pure functions on numpy arrays: `WeightedSampler` is built from these.

Three ways to draw, each exact and each made of sequential passes and one sort, so that none needs compiled code:

* **with replacement**: inverse of the cumulative distribution, found through a *guide table* (Chen and Asau, 1974,
  "On generating random variates from an empirical distribution"; Devroye 1986, section III.2.4): [0, 1) is cut into
  M = 7 N / 4 equal buckets and each remembers the first item that reaches it.
* **without replacement**: the exponential race (Efraimidis and Spirakis, 2006, "Weighted random sampling with a
  reservoir", algorithm A-Res in its exponential form): item i arrives at time E_i / w_i, the first k to arrive are
  the sample and their order of arrival is the order of successive draws.
* **systematic**: one random offset and a regular comb, so that item i is drawn floor(n p_i) or ceil(n p_i) times
  (Madow, 1949); then shuffled. Low variance, but the draws are **not independent**.

What is new: the guide table is built in one vectorised pass (a scatter of bucket numbers and a running maximum), so
that new weights in each epoch cost little more than unchanged ones; a sort carries the item's number in the key's low
bits, which halves the memory of an argsort and uses numpy's fast integer sort.

| symbol | name | shape | dtype |
|---|---|---|---|
| w_i | weights | [N] | float32 or float64, >= 0 |
| F_i = sum of w_1..w_i over the total | cdf | [N] | int64, units of 2^-62 |
| g_j | guide | [M], M = 7 N / 4 | int32 (int64 from 2^31 items on) |
| U | points | [draws] | int64, units of 2^-62 |
| E_i / w_i | keys | [k] | float64, in the high bits of a uint64 |

**Unstated** (chosen here): F is summed in float64, so a probability is right to about 2^-53 of the whole. Arrival
times keep at least 63 - log2(N) bits; two that are equal in them are ordered by a fair coin.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tamis.core.rng import numpy_generator

__all__ = ["CdfTable", "Tags", "cdf_table", "cumulated", "invert", "race", "race_limit", "random_points", "systematic"]

UNIT_BITS = 62  # probabilities and points are integers in units of 2^-62
CHUNK = 1 << 15  # items a pass handles at a time: its temporaries stay in the cache
TINY = np.finfo(np.float64).tiny  # lightest scaled weight of the race: everyone above zero still arrives
LINEAR_STEPS = 5  # steps from a bucket's first item before a binary search takes over


def cumulated(weights: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The running sums of ``weights`` [N] in float64, chunk by chunk: (first item, sums [chunk]).

    Args:
        weights: [N], finite, >= 0, at least one above 0.
    """
    carry = 0.0
    for first in range(0, len(weights), CHUNK):
        sums = weights[first : first + CHUNK].astype(np.float64)
        sums[0] += carry
        np.cumsum(sums, out=sums)
        carry = sums[-1]
        yield first, sums


class CdfTable(NamedTuple):
    """The cumulative distribution and its guide; 15 bytes an item."""

    cdf: np.ndarray  # int64 [N]
    guide: np.ndarray  # int32/int64 [M]: the bucket's first item i, or ~i where the whole bucket is item i's


def cdf_table(weights: np.ndarray, total: float) -> CdfTable:
    """Cumulative distribution and guide table of ``weights`` [N], whose running sum ends in ``total``.

    Args:
        weights: [N], finite, >= 0, at least one above 0.
        total: their sum, in the order of `cumulated`.
    """
    count = len(weights)
    buckets = min(7 * count // 4, 2**31 - 1)
    cdf = np.empty(count, np.int64)
    guide = np.zeros(buckets + 2, np.int32 if count < 2**31 else np.int64)
    for first, sums in cumulated(weights):
        part = cdf[first : first + len(sums)]
        sums /= total
        sums *= 2.0**UNIT_BITS
        part[:] = sums
        # buckets ascend and a repeated index keeps the last value: after the running maximum, guide[j] is the
        # number of items that end before bucket j, which is the first item that reaches it
        guide[_buckets(part, buckets) + 1] = np.arange(first + 1, first + 1 + len(part), dtype=guide.dtype)
    np.maximum.accumulate(guide, out=guide)
    for first in range(0, buckets, CHUNK):
        here = guide[first : min(first + CHUNK, buckets)]
        whole = here == guide[first + 1 : first + 1 + len(here)]  # no item ends in the bucket
        np.bitwise_xor(here, -whole.view(np.int8), out=here)  # ~here where it is whole
    return CdfTable(cdf, guide[:buckets])


def _buckets(points: np.ndarray, count: int) -> np.ndarray:
    """Which of ``count`` < 2^31 equal buckets each point is in, by its upper 32 bits; 2^62 is in bucket ``count``."""
    found = points >> (UNIT_BITS - 32)
    found *= count
    found >>= 32
    return found


def random_points(count: int, *key: int) -> np.ndarray:
    """``count`` uniform points of [0, 1) in units of 2^-62, int64, from the stream named by ``key``.

    Args:
        count: points, >= 0.
        key: integers that name the random stream.
    """
    raw: np.ndarray = numpy_generator(*key).bit_generator.random_raw(count)
    raw >>= np.uint64(64 - UNIT_BITS)
    return raw.view(np.int64)


def invert(table: CdfTable, points: np.ndarray) -> np.ndarray:
    """The item at each point: the first i with ``cdf[i] > point``. int64 [points].

    Equals ``np.searchsorted(cdf, points, side="right")``. An item of weight zero has ``cdf[i] == cdf[i - 1]`` and
    is never the first.

    Args:
        table: of `cdf_table`.
        points: of `random_points`, int64 [k].
    """
    cdf, guide = table
    code = guide.take(_buckets(points, len(guide)), mode="clip")
    items: np.ndarray = (code ^ (code >> (8 * code.itemsize - 1))).astype(np.int64)  # undoes ~i
    late = np.flatnonzero(code >= 0)  # draws whose bucket holds an end of some item
    where, here, points = late, items.take(late), points.take(late)
    for _ in range(LINEAR_STEPS):
        late = np.flatnonzero(cdf.take(here, mode="clip") <= points)
        if not len(late):
            return items
        where, here, points = where.take(late), here.take(late) + 1, points.take(late)
        items[where] = here
    items[where] = np.searchsorted(cdf, points, side="right")
    return items


class Tags(NamedTuple):
    """Puts an item's number into the low bits of a sort key and gets it back.

    ``flip`` is random: of two keys with equal high bits the one whose number differs from ``flip`` later comes
    first, which for any two items is a fair coin.
    """

    mask: np.uint64
    flip: np.uint64

    @classmethod
    def of(cls, count: int, rng: np.random.Generator) -> Tags:
        """Tags for ``count`` items, with the coin from ``rng``.

        Args:
            count: how many, >= 0.
            rng: of numpy; is drawn from.
        """
        mask = (1 << (count - 1).bit_length()) - 1
        return cls(np.uint64(mask), rng.integers(0, mask, dtype=np.uint64, endpoint=True))

    def pack(self, keys: np.ndarray, items: np.ndarray) -> np.ndarray:
        """``keys`` (uint64, changed in place) with ``items`` in the low bits.

        Args:
            keys: uint64 [k].
            items: int64 [k].
        """
        keys &= ~self.mask
        keys |= items.astype(np.uint64) ^ self.flip
        return keys

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """The items of packed keys, int64.

        Args:
            packed: uint64 [k], from `pack`.
        """
        items: np.ndarray = ((packed & self.mask) ^ self.flip).view(np.int64)
        return items


def race(
    weights: np.ndarray, peak: float, positive: int, count: int, limit: float, *key: int
) -> tuple[np.ndarray, Tags]:
    """The first ``count`` of the exponential race, in order of arrival, as packed keys [count] and their tags.

    Items of weight zero never arrive. ``limit`` only saves work: of the items that would arrive later, most are
    dismissed by one comparison, since E = -log(1 - u) >= u. Whoever is dismissed arrives after the limit, so the
    first ``count`` are known once that many arrive before it; otherwise the race is run again without a limit, which
    changes no arrival time. Weights below 2.2e-308 of the peak count as that much.

    Args:
        weights: [N], >= 0.
        peak: the largest weight.
        positive: how many weights are above zero, >= ``count``.
        count: how many to draw.
        limit: arrival time (of weights scaled to a peak of 1) after which nobody is needed; see `race_limit`.
        key: names the random stream.
    """
    packed = np.empty(positive, np.uint64)
    while True:
        rng = numpy_generator(*key)
        tags = Tags.of(len(weights), rng)
        filled = in_time = 0
        for first in range(0, len(weights), CHUNK):
            here = weights[first : first + CHUNK]
            scaled = np.maximum(np.divide(here, peak, dtype=np.float64), TINY)
            uniform = rng.random(len(scaled))
            arrived = np.flatnonzero((uniform < scaled * limit) & (here > 0) if limit < math.inf else here)
            with np.errstate(over="ignore"):
                times = -np.log1p(-uniform.take(arrived)) / scaled.take(arrived)
            in_time += int(np.count_nonzero(times <= limit))
            keys = times.view(np.uint64) << np.uint64(1)  # the bits of doubles >= 0 sort as the doubles do
            packed[filled : filled + len(keys)] = tags.pack(keys, arrived + first)
            filled += len(keys)
        if in_time >= count:
            break
        limit = math.inf  # then all positive weights arrive in time: the second run is the last
    packed = packed[:filled].copy() if 2 * filled < positive else packed[:filled]
    packed.sort()
    return packed[:count], tags


def race_limit(weights: np.ndarray, peak: float, positive: int, count: int) -> float:
    """A time by which at least ``count`` of the ``positive`` items have very probably arrived, and not many more.

    From 4096 regularly spaced weights and a margin of four standard deviations; infinite where it would save little.

    Args:
        weights: [N], finite, >= 0, at least one above 0.
        peak: the largest weight.
        positive: number of weights above 0.
        count: items that are wanted.
    """
    sample = np.divide(weights[:: max(1, len(weights) // 4096)], peak, dtype=np.float64)
    sample = sample[sample > 0]
    share = count / positive
    if share > 0.5 or not len(sample):
        return math.inf
    target = share + 4 * math.sqrt(share * (1 - share)) * (1 / math.sqrt(len(sample)) + 1 / math.sqrt(positive))
    if target > 0.9:
        return math.inf
    limit = target / float(sample.mean())  # a lower bound: 1 - exp(-x) <= x
    with np.errstate(over="ignore"):
        while float(-np.expm1(-sample * limit).mean()) < target:
            limit *= 1.25
    return limit


def systematic(weights: np.ndarray, total: float, count: int, *key: int) -> tuple[np.ndarray, Tags]:
    """``count`` items at the teeth of one comb with a random offset, shuffled, as packed keys [count] and their tags.

    Item i comes floor(count * p_i) or ceil(count * p_i) times, ``count * p_i`` times on average.

    Args:
        weights: [N], finite, >= 0, at least one above 0.
        total: the sum of the weights.
        count: items that are wanted, >= 0.
        key: integers that name the random stream.
    """
    rng = numpy_generator(*key)
    tags = Tags.of(len(weights), rng)
    offset = rng.random()
    packed = np.empty(count, np.uint64)
    filled = 0
    for first, sums in cumulated(weights):
        sums /= total
        sums *= count
        sums += offset
        ends = np.minimum(sums.astype(np.int64), count)  # teeth up to the end of each item
        items = np.repeat(np.arange(first, first + len(ends)), np.diff(ends, prepend=filled))
        keys = rng.integers(0, 2**64, len(items), dtype=np.uint64)
        packed[filled : filled + len(items)] = tags.pack(keys, items)
        filled += len(items)
    packed.sort()
    return packed, tags
