"""The drawing functions against the slow reference and against exact probabilities. Seeds are fixed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.core.rng import numpy_generator
from tamis.samplers.weighted.draws import (
    CHUNK,
    UNIT_BITS,
    Tags,
    cdf_table,
    cumulated,
    invert,
    race,
    race_limit,
    random_points,
    systematic,
)
from tamis.samplers.weighted.sampler import _total, effective_sample_size
from tests.reference import weighted as reference

weight = st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.integers(1, 5).map(float))
weight_lists = st.lists(weight, min_size=1, max_size=40).filter(any)


def run_race(weights, count, *key, limit=None):
    weights = np.asarray(weights)
    positive, peak = int(np.count_nonzero(weights)), float(weights.max())
    if limit is None:
        limit = race_limit(weights, peak, positive, count)
    packed, tags = race(weights, peak, positive, count, limit, *key)
    return tags.unpack(packed).tolist()


def run_comb(weights, count, *key):
    packed, tags = systematic(np.asarray(weights), _total(np.asarray(weights)), count, *key)
    return tags.unpack(packed)


def skewed(count, *key):
    """Weights over many orders of magnitude, a third of them zero, a run of tiny ones in the middle."""
    rng = numpy_generator(*key)
    weights = rng.lognormal(0, 3, count)
    weights[rng.random(count) < 1 / 3] = 0
    weights[count // 3 : count // 2] *= 1e-12
    weights[0] = 1.0
    return weights


def test_running_sums_are_those_of_one_pass():
    weights = skewed(2 * CHUNK + 5, 1).astype(np.float32)
    sums = np.concatenate([part for _, part in cumulated(weights)])
    assert np.array_equal(sums, np.cumsum(weights, dtype=np.float64))
    assert _total(weights) == sums[-1]


@given(weight_lists, st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
@settings(deadline=None)
def test_guide_table_inverts_the_cdf_as_the_reference_does(weights, uniforms):
    table = cdf_table(np.asarray(weights), _total(np.asarray(weights)))
    points = (np.asarray([*uniforms, 0.0]) * 2.0**UNIT_BITS).astype(np.int64)
    expected = [reference.inverse_cdf(weights, point, 2**UNIT_BITS) for point in points.tolist()]
    assert invert(table, points).tolist() == expected


@pytest.mark.parametrize("count", [1, 2, 3, 1000, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_guide_table_equals_binary_search(count):
    weights = skewed(count, 2)
    table = cdf_table(weights, _total(weights))
    assert count <= len(table.guide) < 2 * count + 1
    edges = np.concatenate([table.cdf - 1, table.cdf, [0, 2**UNIT_BITS - 1]])
    points = np.concatenate([edges[(edges >= 0) & (edges < 2**UNIT_BITS)], random_points(5000, 3)])
    items = invert(table, points)
    assert np.array_equal(items, np.searchsorted(table.cdf, points, side="right"))
    assert (weights[items] > 0).all()


def test_many_tiny_weights_in_one_bucket_need_the_binary_search():
    weights = np.r_[1.0, np.full(1000, 1e-7), 1.0]  # all thousand ends lie in one of the 1024 buckets
    table = cdf_table(weights, _total(weights))
    points = np.r_[0, table.cdf[:-1], table.cdf[:-1] - 1, 2**UNIT_BITS - 1]
    items = invert(table, points)
    assert len(set(items.tolist())) == len(weights)
    assert np.array_equal(items, np.searchsorted(table.cdf, points, side="right"))


@given(weight_lists, st.integers(0, 1000))
@settings(deadline=None)
def test_race_is_the_order_of_arrival(weights, seed):
    count = sum(weight > 0 for weight in weights)
    rng = numpy_generator(seed)
    Tags.of(len(weights), rng)
    expected = reference.race_order(weights, rng.random(len(weights)).tolist())
    assert run_race(weights, count, seed) == expected


@pytest.mark.parametrize("limit", [1e-9, 0.01, 1.0, 1e6, math.inf])
def test_limit_of_the_race_saves_work_and_changes_nothing(limit):
    weights = skewed(CHUNK + 100, 4)
    for seed in range(5, 8):  # at 0.01 about as many as are wanted get through, some of them too late
        assert run_race(weights, 500, seed, limit=limit) == run_race(weights, 500, seed)


def test_limit_lets_enough_and_not_many_more_arrive():
    for weights in (skewed(20_000, 6), np.r_[np.full(10, 1e6), np.ones(20_000)], np.ones(20_000)):
        positive, peak = np.count_nonzero(weights), weights.max()
        for count in (1, 10, 200, 2000, positive // 2):
            limit = race_limit(weights, peak, positive, count)
            arrivals = -np.expm1(-weights / peak * limit).sum() if limit < math.inf else positive
            assert count <= arrivals
            if limit < math.inf:
                assert arrivals <= 1.4 * (count + 0.08 * positive)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_race_does_not_depend_on_the_weights_scale(scale):
    weights = np.array([1.0, 2.0, 0.0, 4.0, 8.0])
    assert run_race(weights * scale, 4, 7) == run_race(weights, 4, 7)


def test_race_over_sixty_orders_of_magnitude_takes_the_heavy_ones_first():
    weights = 10.0 ** np.arange(-30, 31, 10)
    for seed in range(50):
        assert run_race(weights, 7, seed) == [6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("weights", [[1e300, 1e-300], [1.7e308, *[5e-324] * 40, 0.0], [1e300, *[1e-310] * 9, 1.0]])
@pytest.mark.parametrize("limit", [math.inf, 1e-3, 5.0])
def test_race_ends_where_weights_are_too_light_to_be_scaled(weights, limit):
    items = np.flatnonzero(weights)
    drawn = run_race(np.array(weights), len(items), 3, limit=limit)
    assert drawn[0] == 0
    assert sorted(drawn) == items.tolist()
    assert np.array_equal(drawn, run_race(np.array(weights), len(items), 3, limit=math.inf))


def chi_square(observed, expected):
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    return float(((observed - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(("weights", "count"), [([1, 2, 3, 4], 2), ([5, 1, 0, 1, 3], 3), ([1, 1, 1, 10], 4)])
def test_race_draws_each_ordered_sample_with_its_exact_probability(weights, count):
    weights = [float(weight) for weight in weights]
    exact = reference.ordered_samples(weights, count)
    seen = dict.fromkeys(exact, 0)
    trials = 6000
    for seed in range(trials):
        seen[tuple(run_race(weights, count, 8, seed))] += 1
    degrees = len(exact) - 1
    assert chi_square(list(seen.values()), [trials * p for p in exact.values()]) < degrees + 4 * math.sqrt(2 * degrees)
    included = reference.inclusion_probabilities(weights, count)
    shares = [sum(n for order, n in seen.items() if item in order) / trials for item in range(len(weights))]
    assert np.allclose(shares, included, atol=4 * 0.5 / math.sqrt(trials))
    assert included == pytest.approx([1.0] * len(weights) if count == len(weights) else included)


def test_equal_keys_are_ordered_by_a_fair_coin():
    wins = 0
    for seed in range(2000):
        tags = Tags.of(1000, numpy_generator(9, seed))
        keys = np.full(2, 1 << 40, np.uint64)
        packed = np.sort(tags.pack(keys, np.array([3, 700])))
        wins += tags.unpack(packed)[0] == 3
    assert abs(wins - 1000) < 4 * math.sqrt(2000) / 2


@given(weight_lists, st.integers(1, 60), st.integers(0, 1000))
@settings(deadline=None)
def test_comb_gives_floor_or_ceil_of_the_expected_count(weights, count, seed):
    drawn = np.bincount(run_comb(weights, count, seed), minlength=len(weights))
    expected = count * np.asarray(weights) / math.fsum(weights)
    assert drawn.sum() == count
    assert (drawn >= np.floor(expected - 1e-9)).all()
    assert (drawn <= np.ceil(expected + 1e-9)).all()
    assert not drawn[np.asarray(weights) == 0].any()


def test_comb_is_the_reference_comb():
    for seed in range(200):
        weights = numpy_generator(10, seed).random(9).tolist()
        rng = numpy_generator(11, seed)
        Tags.of(9, rng)
        counts = reference.comb_counts(weights, 23, rng.random())
        assert np.bincount(run_comb(weights, 23, 11, seed), minlength=9).tolist() == counts


def test_comb_is_unbiased_and_shuffled():
    weights = [1.0, 2.0, 4.0, 0.5]
    orders = [run_comb(weights, 5, 12, seed) for seed in range(4000)]
    counts = np.mean([np.bincount(order, minlength=4) for order in orders], axis=0)
    assert np.allclose(counts, 5 * np.asarray(weights) / 7.5, atol=0.03)
    by_position = [np.bincount([order[place] for order in orders], minlength=4) / 4000 for place in range(5)]
    assert np.allclose(by_position, np.asarray(weights) / 7.5, atol=4 * 0.5 / math.sqrt(4000))


@given(weight_lists)
def test_effective_sample_size_is_the_reference_value(weights):
    if max(weights) < 1e20 * min(weight for weight in weights if weight):
        assert effective_sample_size(np.asarray(weights)) == pytest.approx(reference.effective_sample_size(weights))
