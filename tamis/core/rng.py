"""Randomness as a pure function of a key: nobody in tamis draws from a global generator.

Every stream is named by integers, e.g. ``(seed, epoch)`` or ``(seed, epoch, index)``. The key goes through
`numpy.random.SeedSequence`, so that neighbouring seeds share no shifted streams (``seed + index`` does).
"""

from __future__ import annotations

import random  # noqa: TID251  (only for `seeded_globals`: users' code draws from it)
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["check_seed", "numpy_generator", "seed_of", "seeded_globals", "torch_generator"]


def check_seed(seed: int) -> int:
    """Return ``seed`` if it is an integer in [0, 2**63), else raise.

    Raises:
        TypeError: not an integer (``bool`` is refused too).
        ValueError: negative or too large.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed={seed!r}: must be an int, got {type(seed).__name__}")
    if not 0 <= int(seed) < 2**63:
        raise ValueError(f"seed={seed}: must lie in [0, 2**63)")
    return int(seed)


def _sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    """One sequence per key: the length first and two words per integer, so that no key is another's prefix."""
    words = [word for part in key for word in (part & 0xFFFFFFFF, part >> 32)]
    return np.random.SeedSequence([len(key), *words])


def seed_of(*key: int) -> int:
    """A 63-bit seed derived from the integers of ``key`` (each in [0, 2**63))."""
    words = _sequence(key).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def torch_generator(*key: int) -> torch.Generator:
    """A fresh CPU `torch.Generator` for the stream named by ``key``."""
    return torch.Generator().manual_seed(seed_of(*key))


def numpy_generator(*key: int) -> np.random.Generator:
    """A fresh numpy `Generator` (SFC64, the fastest bulk generator of numpy) for the stream named by ``key``."""
    return np.random.Generator(np.random.SFC64(_sequence(key)))


@contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Run the *user's* code with all global generators (torch, numpy, Python) seeded; they come back as they were."""
    kept, kept_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (users' code draws from it)
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.default_generator.manual_seed(seed)
            for _ in cuda:
                torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002, TID251
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)  # noqa: NPY002
