"""tau = H(T(G)): parity with the slow reference, the paper's properties, and every degenerate case."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.core.errors import NoEffectWarning
from tamis.features.table import FeatureTable
from tamis.samplers.swift import law as swift_law
from tamis.samplers.swift.law import BINS, BinnedSteps, SwiftLaw, aggregate, bins, cumulative, piecewise_linear
from tamis.samplers.swift.sampler import FeatureTables, SwiftPolicy
from tests.reference import swift as reference

TRIM = SwiftLaw((1.0, -0.5), (0.3, 0.5, 0.6), (1.0, 0.8, 0.6, 0.0, 0.0))


def make(n=200, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    loss, entropy, gradient = rng.exponential(size=n), rng.random(n), rng.exponential(size=n)
    if ties:
        loss, entropy = np.round(loss, 1), np.round(entropy, 1)
    return FeatureTable({"loss": loss, "entropy": entropy, "gradient": gradient})


def columns_of(features):
    return [features[name].tolist() for name in ("loss", "entropy")], features["gradient"].tolist()


unit = st.floats(0, 1, width=32)
laws = st.builds(
    lambda c, e, v, t: SwiftLaw(tuple(c), tuple(sorted(e)), tuple(v), t),
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2),
    st.lists(unit, min_size=3, max_size=3),
    st.lists(unit, min_size=5, max_size=5),
    st.sampled_from(["cgf", "cdf"]),
)


@settings(deadline=None, max_examples=60)
@given(law=laws, n=st.integers(1, 30), seed=st.integers(0, 99), ties=st.booleans())
def test_weights_agree_with_the_reference(law, n, seed, ties):
    features = make(n, seed, ties)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        p = FeatureTables(features).weights(law)
    columns, gradient = columns_of(features)
    expected = reference.probabilities(
        columns, gradient, law.coefficients, law.knots, law.heights, transform=law.transform
    )
    g = np.array(reference.big_g(columns, law.coefficients))
    t = [reference.cgf(g, gradient if law.transform == "cgf" else [1.0] * n, u) for u in g]
    gaps = np.abs(np.subtract.outer(g, g))
    near_tie = np.any((gaps > 0) & (gaps < 1e-9))
    at_knot = np.abs(np.subtract.outer(t, [0.0, *law.knots, 1.0])).min() < 1e-9
    jump = np.diff([0.0, *law.knots, 1.0]).min() < 1e-6
    if not (near_tie or (at_knot and jump)):  # rounding may fall on either side of a jump
        assert p == pytest.approx(expected, abs=1e-9)
    assert p.min() >= 0
    assert abs(p.sum() - 1) < 1e-12


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_policy_scores_its_own_data_as_the_tables_do_and_unseen_data_by_binary_search(transform):
    features = make()
    law = SwiftLaw(TRIM.coefficients, TRIM.knots, TRIM.heights, transform)
    policy = SwiftPolicy.fit(law, features)
    assert np.array_equal(policy.weights(features).numpy(), FeatureTables(features).weights(law))
    columns, gradient = columns_of(features)
    mass = gradient if transform == "cgf" else [1.0] * len(gradient)
    g = reference.big_g(columns, law.coefficients)
    unseen = {"loss": torch.tensor([-1.0, 0.31, 99.0]), "entropy": torch.tensor([2.0, 0.77, 0.5])}
    for k, tau in enumerate(policy.score(unseen).tolist()):
        u = sum(
            c * reference.cdf(column, float(unseen[name][k]))
            for c, column, name in zip(law.coefficients, columns, unseen, strict=True)
        )
        t = reference.cgf(g, mass, u)
        assert tau == pytest.approx(reference.piecewise(t, [0.0, *law.knots, 1.0], law.heights), abs=1e-12)


def test_t_is_monotone_in_g_in_0_1_and_1_at_the_largest():
    features = make(ties=True)
    tables = FeatureTables(features)
    g = aggregate(tables.cdfs, TRIM.coefficients)
    t = swift_law.fit_transform(tables.cdfs, tables.gradient, TRIM)(g)
    order = np.argsort(g)
    assert (np.diff(t[order]) >= 0).all()
    assert t.min() > 0
    assert t.max() == t[g.argmax()] == 1
    for value in np.unique(g):
        assert len(set(t[g == value])) == 1  # ties share a value


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), scale=st.sampled_from([0.125, 0.5]))
def test_positive_scale_of_c_and_of_v_changes_nothing(seed, scale):
    tables = FeatureTables(make(60, seed))
    p = tables.weights(TRIM)
    smaller_c = SwiftLaw(tuple(scale * c for c in TRIM.coefficients), TRIM.knots, TRIM.heights)
    smaller_v = SwiftLaw(TRIM.coefficients, TRIM.knots, tuple(scale * v for v in TRIM.heights))
    assert tables.weights(smaller_c) == pytest.approx(p, abs=1e-15)
    assert tables.weights(smaller_v) == pytest.approx(p, abs=1e-15)


def test_the_sign_of_c_reverses_ranks_and_is_made_good_by_reversing_h():
    tables = FeatureTables(make(5000))
    g = aggregate(tables.cdfs, TRIM.coefficients)
    minus = tuple(-c for c in TRIM.coefficients)
    assert np.array_equal(aggregate(tables.cdfs, minus), -g)
    reverse = SwiftLaw(minus, tuple(1 - e for e in reversed(TRIM.knots)), TRIM.heights[::-1])
    assert np.abs(tables.weights(reverse) - tables.weights(TRIM)).sum() < 0.01  # up to one sample's step of T


def test_strictly_monotone_transforms_of_a_feature_change_nothing():
    features = make(ties=True)
    warped = features.with_columns({"loss": features["loss"].exp(), "entropy": features["entropy"] ** 3})
    assert np.array_equal(FeatureTables(features).weights(TRIM), FeatureTables(warped).weights(TRIM))


def test_permuting_the_samples_permutes_the_weights():
    features, order = make(ties=True), torch.randperm(200, generator=torch.Generator().manual_seed(0))
    moved = FeatureTable({name: features[name][order] for name in features.column_names})
    assert FeatureTables(moved).weights(TRIM) == pytest.approx(FeatureTables(features).weights(TRIM)[order], abs=1e-15)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), a=unit, b=unit)
def test_equal_stretches_of_t_hold_equal_gradient_mass(seed, a, b):
    low, high = min(a, b), max(a, b)
    tables = FeatureTables(make(300, seed))
    g = aggregate(tables.cdfs, TRIM.coefficients)
    t = cumulative(g, tables.gradient)(g)
    inside = tables.gradient[(t >= low) & (t <= high)].sum() / tables.gradient.sum()
    assert abs(inside - (high - low)) <= 2 * tables.gradient.max() / tables.gradient.sum() + 1e-12


def test_h_is_right_continuous_at_equal_knots_and_ends_at_the_last_height():
    t = np.array([0.0, 0.4999, 0.5, 0.75, 1.0])
    assert piecewise_linear(t, (0.5, 0.5, 0.5), (0.2, 0.2, 0.9, 0.6, 1.0)) == pytest.approx([0.2, 0.2, 0.6, 0.8, 1.0])
    assert piecewise_linear(t, (0.0, 0.0, 0.0), (1, 1, 1, 0, 0.5)) == pytest.approx([0, 0.24995, 0.25, 0.375, 0.5])
    assert piecewise_linear(t, (1.0, 1.0, 1.0), (0, 1, 1, 0, 0.5)) == pytest.approx([0, 0.4999, 0.5, 0.75, 0.5])


def test_degenerate_laws_are_uniform_and_warned():
    n = 50
    tables = FeatureTables(make(n))
    for law in (
        SwiftLaw((0.0, 0.0), TRIM.knots, TRIM.heights),  # every T is 1, and v_S = 0
        SwiftLaw((0.0, 0.0), TRIM.knots, (0, 0, 0, 0, 1.0)),  # every T is 1
        SwiftLaw(TRIM.coefficients, TRIM.knots, (0.0,) * 5),  # 0 / 0
        SwiftLaw(TRIM.coefficients, TRIM.knots, (0.3,) * 5),  # constant
        SwiftLaw(TRIM.coefficients, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 0.0, 0.0)),  # H is 0 on (0, 1]
    ):
        with pytest.warns(NoEffectWarning, match="uniform"):
            p = tables.weights(law)
        assert (p == 1 / n).all()


def test_no_gradient_at_all_means_cdf_with_a_warning():
    features = make(40)
    flat = features.with_columns({"gradient": torch.zeros(40)})
    with pytest.warns(UserWarning, match="counts samples"):
        p = FeatureTables(flat).weights(TRIM)
    as_cdf = SwiftLaw(TRIM.coefficients, TRIM.knots, TRIM.heights, "cdf")
    assert np.array_equal(p, FeatureTables(features).weights(as_cdf))


def test_one_sample():
    with pytest.warns(NoEffectWarning):
        assert FeatureTables(make(1)).weights(TRIM) == [1.0]


def test_ten_parameters_in_and_out():
    z = (0.3, 0.5, 0.6, 1.0, 0.8, 0.6, 0.0, 0.0, 1.0, -0.5)
    assert TRIM.to_vector() == z
    assert SwiftLaw.from_vector(z) == TRIM
    assert SwiftLaw.from_vector((0.6, 0.3, 0.5, *z[3:])) == TRIM  # knots are sorted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coefficients": (1.5, 0.0)}, r"coefficients\[0\]=1.5"),
        ({"coefficients": ()}, "at least one coefficient"),
        ({"knots": (0.5, 0.2, 0.6)}, "must increase"),
        ({"knots": (0.1, 0.2, float("nan"))}, r"knots\[2\]=nan"),
        ({"heights": (1.0, 0.0)}, "two more than the knots"),
        ({"heights": (0, 0, 0, 0, -0.1)}, r"heights\[4\]=-0.1"),
        ({"transform": "log"}, "transform='log'"),
    ],
)
def test_bad_laws_are_refused(change, message):
    values = {"coefficients": TRIM.coefficients, "knots": TRIM.knots, "heights": TRIM.heights, **change}
    with pytest.raises(ValueError, match=message):
        SwiftLaw(**values)


# ---- many samples: bins and thinned tables


def test_bins_are_within_one_bin_of_the_exact_t():
    rng = np.random.default_rng(3)
    g, mass = rng.random(20_000), rng.exponential(size=20_000)
    halves = ((g[part], mass[part]) for part in (slice(0, 7000), slice(7000, None)))
    binned, exact = bins(halves, 0.0, 1.0), cumulative(g, mass)
    worst = np.abs(binned(g) - exact(g)).max()
    assert worst <= np.diff(binned.values).max() + 1e-12
    assert worst < 0.002
    assert (np.diff(binned.values) >= 0).all()


def test_large_data_sets_use_bins_and_policy_and_tables_still_agree_bit_for_bit():
    n = BINS + 5000
    features = make(n)
    tables = FeatureTables(features)
    policy = tables.policy(TRIM)
    assert isinstance(policy._transform(), BinnedSteps)
    p = tables.weights(TRIM)
    assert np.array_equal(policy.weights(features).numpy(), p)
    exact = [
        np.searchsorted(np.sort(c), c, side="right") / n
        for c in (features[name].numpy() for name in ("loss", "entropy"))
    ]
    g = aggregate(exact, TRIM.coefficients)
    tau = piecewise_linear(cumulative(g, tables.gradient)(g), TRIM.knots, TRIM.heights)
    assert np.abs(p - tau / tau.sum()).sum() < 1e-3


def test_thinned_cdf_is_within_one_step():
    u = np.random.default_rng(0).normal(size=3 * BINS)
    table = cumulative(u)
    assert len(table.keys) <= BINS
    exact = np.searchsorted(np.sort(u), u, side="right") / len(u)
    assert np.abs(table(u) - exact).max() <= 1 / BINS + 1e-12
