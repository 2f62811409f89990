"""Weights that were changed behind a `WeightedSampler`'s back are noticed."""

import copy

import numpy as np
import pytest

from tamis.samplers import WeightedSampler
from tamis.samplers.weighted.sampler import BLOCK

WEIGHTS = [3.0, 0.0, 1.0, 0.5, 2.0, 0.0, 4.0, 0.25, 1.0, 5.0, 0.125, 1.5]


def test_weights_changed_in_place_are_noticed():
    weights = np.asarray(WEIGHTS)
    sampler = WeightedSampler(weights, seed=5)
    with pytest.raises(ValueError, match="read-only"):
        sampler.weights[0] = 7
    weights[0] = 7
    with pytest.raises(ValueError, match="call set_weights"):
        iter(sampler)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("change", [lambda w: w[::-1], lambda w: np.roll(w, 1), lambda w: np.roll(w, BLOCK)])
def test_weights_that_changed_places_are_noticed(dtype, change):
    weights = np.tile(np.asarray(WEIGHTS, dtype), 9000) + np.repeat(np.arange(9000) % 7, 12).astype(dtype)
    sampler = WeightedSampler(weights, seed=5)
    next(iter(copy.deepcopy(sampler)))  # a copy elsewhere in memory is no change
    weights[:] = change(weights).copy()
    with pytest.raises(ValueError, match="call set_weights"):
        iter(sampler)


def test_two_weights_that_swapped_places_are_noticed():
    weights = np.ones(64)
    weights[:2] = 2, 4
    sampler = WeightedSampler(weights, seed=5)
    for other in range(1, 64):
        weights[0], weights[other] = weights[other], weights[0]
        if weights[0] != 2:
            with pytest.raises(ValueError, match="call set_weights"):
                iter(sampler)
        weights[0], weights[other] = weights[other], weights[0]
    iter(sampler)
