"""Proposing trials in the unit cube, as a pure function of the trials so far: GP-UCB, Optuna's GP and TPE, random.

Swift Sampler (section 3.3) searches with a Gaussian process and the upper confidence bound, after E. Brochu,
V. M. Cora, N. de Freitas, "A tutorial on Bayesian optimization", arXiv:1012.2599, 2010.

======= ================ ==============================================================================
symbol  here             meaning
======= ================ ==============================================================================
z       a row of points  [D] in [0, 1]
O_t     ``history``      the pairs (z_j, score_j), j < t; a score of None is a failed trial
m, k    GP of gp-ucb     constant mean (that of the scores) and RBF kernel, one length scale and variance, fitted
sigma^2 `NOISE_BOUNDS`   noise, fitted between these shares of the scores' variance
kappa   `KAPPA`          weight of the standard deviation in the acquisition, mean + kappa * std
======= ================ ==============================================================================

Nothing is kept between calls: a search that is resumed from its journal goes on bit for bit, and a proposal never
depends on how many processes there are.

**Unstated** in the paper: kappa (2 here), the noise (fitted; bayesian-optimization's default of 1e-6 believes every
score exactly), the first points (8 of a scrambled Sobol sequence, for every optimizer but random).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from tamis.core.checks import check_choice
from tamis.core.extras import needs
from tamis.core.rng import numpy_generator, seed_of

__all__ = ["INITIAL", "OPTIMIZERS", "History", "propose"]

History = Sequence[tuple[np.ndarray, float | None]]

INITIAL = 8
KAPPA = 2.0
STARTS = 3  # of the acquisition's maximisation, the best of 10,000 random points; more cost much and change little
NOISE_BOUNDS = (1e-5, 1.0)


def propose(optimizer: str, history: History, count: int, dim: int, *, seed: int) -> np.ndarray:
    """The points of the next ``count`` trials.

    Args:
        optimizer: one of `OPTIMIZERS`.
        history: point and score (higher is better) of every trial before these, in order.
        count: trials that are run at once. Each takes those before it for average.
        dim: D.
        seed: of the search.

    Returns:
        float64 [count, D] in [0, 1]. The first `INITIAL` trials of a search do not depend on any score.

    Raises:
        ValueError: unknown optimizer.
        ImportError: its package is not installed.
    """
    suggest = _SUGGEST[check_choice("optimizer", optimizer, OPTIMIZERS)]
    number = len(history)
    if suggest is None:
        return np.stack([numpy_generator(seed, n).random(dim) for n in range(number, number + count)])
    known = _finite(history)
    points = list(_sobol(dim, seed)[number : number + count])
    while len(points) < count:
        average = float(np.mean([score for _, score in known])) if known else 0.0
        pending = [(point, average) for point in points]  # so that a batch spreads out
        point = suggest([*known, *pending], dim, seed_of(seed, number + len(points)) % 2**32)
        points.append(np.clip(point, 0.0, 1.0))
    return np.stack(points)


def _finite(history: History) -> list[tuple[np.ndarray, float]]:
    """The history with failed trials scored as the worst of the others."""
    worst = min((score for _, score in history if score is not None), default=0.0)
    return [(point, worst if score is None else score) for point, score in history]


def _sobol(dim: int, seed: int) -> np.ndarray:
    """The first `INITIAL` points, evenly spread: [INITIAL, D]."""
    with needs("search", "optimizer"):
        from scipy.stats import qmc

    points: np.ndarray = qmc.Sobol(dim, rng=np.random.Generator(np.random.PCG64(seed_of(seed)))).random(INITIAL)
    return points


def _gp_ucb(known: list[tuple[np.ndarray, float]], dim: int, seed: int) -> np.ndarray:
    """The maximum of mean + kappa std under a Gaussian process (bayesian-optimization)."""
    try:
        from bayes_opt import TargetSpace, acquisition
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    except ImportError as error:
        raise ImportError("optimizer='gp-ucb': needs pip install 'tamis[search]'") from error
    names = [f"z{i:03d}" for i in range(dim)]
    space = TargetSpace(None, dict.fromkeys(names, (0.0, 1.0)), allow_duplicate_points=True)
    kernel = ConstantKernel(1.0, (0.1, 10.0)) * RBF(0.5, (0.05, 10.0)) + WhiteKernel(0.1, NOISE_BOUNDS)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # duplicate points are printed, not warned of
        warnings.simplefilter("ignore")  # a parameter at its bound is fine here
        for point, score in known:
            space.register(dict(zip(names, point.tolist(), strict=True)), score)
        fitted = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=seed)
        fitted.fit(space.params, space.target)
        # the noise goes into alpha, so that the acquisition's std is that of the function, not of a noisy score
        process = GaussianProcessRegressor(
            fitted.kernel_.k1, alpha=fitted.kernel_.k2.noise_level, optimizer=None, normalize_y=True
        )
        bound = acquisition.UpperConfidenceBound(kappa=KAPPA)
        best: np.ndarray = bound.suggest(process, space, n_smart=STARTS, random_state=seed)
    return best


def _optuna(make: Callable[..., Any]) -> Callable[[list[tuple[np.ndarray, float]], int, int], np.ndarray]:
    def suggest(known: list[tuple[np.ndarray, float]], dim: int, seed: int) -> np.ndarray:
        try:
            import optuna
        except ImportError as error:
            raise ImportError("optimizer='optuna-gp' or 'tpe': needs pip install 'tamis[search]'") from error
        space: dict[str, Any] = {f"z{i:03d}": optuna.distributions.FloatDistribution(0.0, 1.0) for i in range(dim)}
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental-feature notices
                study = optuna.create_study(direction="maximize", sampler=make(optuna.samplers, seed))
                for point, score in known:
                    params = dict(zip(space, point.tolist(), strict=True))
                    study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=score))
                trial = study.ask(space)
        finally:
            optuna.logging.set_verbosity(level)
        return np.array([trial.params[name] for name in space])

    return suggest


_SUGGEST: dict[str, Callable[[list[tuple[np.ndarray, float]], int, int], np.ndarray] | None] = {
    "gp-ucb": _gp_ucb,
    "optuna-gp": _optuna(lambda samplers, seed: samplers.GPSampler(seed=seed, n_startup_trials=0)),
    "tpe": _optuna(lambda samplers, seed: samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True)),
    "random": None,
}
OPTIMIZERS = tuple(_SUGGEST)
