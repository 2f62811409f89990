"""Proposals: pure functions of the history, in the cube, better than random, safe on odd histories."""

import numpy as np
import pytest

from tamis.core.rng import numpy_generator
from tamis.optimizers.bayesian import INITIAL, OPTIMIZERS, propose


def branin(point):
    """Branin's function on the unit square, upside down: three global maxima of -0.398."""
    x, y = 15 * point[0] - 5, 15 * point[1]
    valley = y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6
    return -(valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10)


def best_of(optimizer, seed, trials):
    history = []
    while len(history) < trials:
        count = INITIAL if not history else 1
        history += [(p, float(branin(p))) for p in propose(optimizer, history, count, 2, seed=seed)]
    return max(score for _, score in history)


def some_history(n, dim=3):
    rng = numpy_generator(1)
    return [(rng.random(dim), float(rng.random())) for _ in range(n)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_proposals_are_pure_functions_in_the_cube(optimizer):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for n in (0, 5, 9):
        history = some_history(n)
        first = propose(optimizer, history, 3, 3, seed=4)
        assert first.shape == (3, 3)
        assert (first >= 0).all()
        assert (first <= 1).all()
        assert np.array_equal(first, propose(optimizer, history, 3, 3, seed=4))
        assert not np.array_equal(first, propose(optimizer, history, 3, 3, seed=5))
        assert len({tuple(p) for p in first}) == 3
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_first_points_do_not_depend_on_scores(optimizer):
    whole = propose(optimizer, [], INITIAL, 3, seed=0)
    history = [(p, k / 7) for k, p in enumerate(whole[:5])]
    assert np.array_equal(propose(optimizer, history, INITIAL - 5, 3, seed=0), whole[5:])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_duplicates_equal_scores_and_failures_do_no_harm(optimizer, capsys):
    point = np.array([0.5, 0.5, 0.5])
    for history in (
        [(point, 1.0)] * 10,  # one point, again and again
        [(p, 0.3) for p, _ in some_history(10)],  # scores without variance
        [(p, None) for p, _ in some_history(10)],  # nothing but failures
        [*some_history(9), (point, None)],
    ):
        assert np.isfinite(propose(optimizer, history, 1, 3, seed=0)).all()
    assert capsys.readouterr().out == ""


def test_gp_ucb_beats_random_on_a_2d_function():
    """At 24 evaluations in at least 80 % of the seeds."""
    wins = sum(best_of("gp-ucb", seed, 24) > best_of("random", seed, 24) for seed in range(5))
    assert wins >= 4


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="'gp-ucb', 'optuna-gp', 'tpe', 'random'"):
        propose("cma", [], 1, 2, seed=0)
