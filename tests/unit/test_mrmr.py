"""Minimum redundancy, maximum reward: against the slow reference, brute force, and what Eq. 4.5 as printed lacks."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.core.rng import numpy_generator
from tamis.optimizers.mrmr import counts, multisets, overlaps, select
from tests.reference import label_aware as reference

SMALL = multisets(4, 3)


def rewards(labels, sets, seed=0):
    return numpy_generator(seed).normal(-0.1, 0.05, (labels, len(sets)))


def test_the_space_has_816_distinct_triples():
    sets = multisets(16, 3)
    assert sets.shape == (816, 3)
    assert [tuple(row) for row in sets] == reference.all_multisets(16, 3)
    assert (counts(sets, 16).sum(1) == 3).all()


def test_overlaps_count_what_is_in_both():
    sets = multisets(5, 3)
    want = [[reference.overlap(a, b) for b in sets.tolist()] for a in sets.tolist()]
    assert np.array_equal(overlaps(sets), want)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 6), st.integers(1, 20), st.booleans())
def test_it_equals_the_slow_reference(seed, alpha, count, coarse):
    table = rewards(2, SMALL, seed)
    table = np.round(table, 2) if coarse else table
    got = select(table, SMALL, count, alpha=alpha)
    for label in range(2):
        want = reference.policy(table[label].tolist(), SMALL.tolist(), count, alpha)
        if coarse:  # ties: equal scores up to rounding, so compare what was reached
            assert len(set(got[label])) == count
            assert table[label, got[label][0]] == table[label].max()
        else:
            assert got[label].tolist() == want


def test_two_choices_equal_brute_force():
    table = rewards(5, SMALL)
    for row, got in zip(table, select(table, SMALL, 2, alpha=1.5), strict=True):
        first = int(row.argmax())
        shifted = row - row.min()
        score = [
            shifted[place] - 1.5 * shifted.mean() * reference.overlap(SMALL[place], SMALL[first])
            for place in range(len(SMALL))
        ]
        score[first] = -np.inf
        assert got.tolist() == [first, int(np.argmax(score))]


def test_without_redundancy_it_is_the_top_k():
    table = rewards(3, SMALL)
    assert np.array_equal(select(table, SMALL, 7, alpha=0.0), np.argsort(-table, axis=1)[:, :7])


def test_a_shift_or_a_scale_of_the_rewards_changes_nothing():
    """As printed, Eq. 4.5 fails this: its mean reward is negative, and redundancy becomes a bonus."""
    table = rewards(4, SMALL)
    want = select(table, SMALL, 10, alpha=2.5)
    for other in (table - 3.0, table + 5.0, 7.0 * table, 0.01 * table - 1.0):
        assert np.array_equal(select(other, SMALL, 10, alpha=2.5), want)


def test_a_larger_alpha_gives_less_overlap():
    sets = multisets(8, 3)
    common = overlaps(sets)

    def mean_overlap(alpha):
        chosen = select(rewards(30, sets), sets, 20, alpha=alpha)
        return np.mean([common[np.ix_(row, row)][~np.eye(20, dtype=bool)].mean() for row in chosen])

    found = [mean_overlap(alpha) for alpha in (0.0, 0.5, 2.5, 10.0)]
    assert all(later <= earlier + 1e-3 for earlier, later in itertools.pairwise(found))
    assert found[0] - found[-1] > 0.1


def test_equal_rewards_and_the_whole_space():
    equal = select(np.full((2, len(SMALL)), -0.3), SMALL, len(SMALL), alpha=2.5)
    assert sorted(equal[0]) == list(range(len(SMALL)))
    assert np.array_equal(equal[0], equal[1])
    assert select(np.zeros((1, 1)), multisets(1, 3), 1, alpha=1.0).tolist() == [[0]]


@pytest.mark.parametrize(
    ("table", "count", "alpha", "words"),
    [
        (np.full((1, 20), np.nan), 2, 1.0, "finite"),
        (np.zeros((1, 19)), 2, 1.0, r"\[L, 20\]"),
        (np.zeros((1, 20)), 0, 1.0, "count"),
        (np.zeros((1, 20)), 21, 1.0, "count"),
        (np.zeros((1, 20)), 2, -1.0, "alpha"),
    ],
)
def test_wrong_input_is_refused(table, count, alpha, words):
    with pytest.raises(ValueError, match=words):
        select(table, SMALL, count, alpha=alpha)


def test_a_thousand_labels_take_seconds():
    sets = multisets(16, 3)
    table = rewards(1000, sets)
    start = time.process_time()
    chosen = select(table, sets, 100, alpha=2.5)
    assert time.process_time() - start < 20
    assert chosen.shape == (1000, 100)
    assert all(len(set(row)) == 100 for row in chosen.tolist())
