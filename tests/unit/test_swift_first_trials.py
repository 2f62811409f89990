"""What search_swift tries first, how it confirms, balanced laws, and the trim search beside it."""

import json

import numpy as np
import pytest
import torch

from tamis.core.errors import NoEffectWarning
from tamis.core.rng import torch_generator
from tamis.features import FeatureTable, class_frequency
from tamis.policy.base import load_policy
from tamis.samplers import BalancedSampler, SwiftSampler, TrimSampler
from tamis.samplers.swift.law import SwiftLaw
from tamis.samplers.swift.sampler import FeatureTables, SwiftPolicy
from tamis.search import search_swift, search_trim
from tamis.search.swift import law_of
from tamis.search.swift.space import SHARES, first_points, point_of
from tests.unit.test_swift_search import N, planted, share_of_right

LABELS = torch.tensor([0] * 300 + [1] * 80 + [2] * 20)


def with_classes():
    return planted()[0].with_columns({"class_frequency": class_frequency(LABELS)})


def weights(sampler):
    return sampler.weights / sampler.weights.sum()


@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_the_first_laws_are_the_plain_samplers(transform):
    features = with_classes()
    tables = FeatureTables(features)
    points = first_points(tables, transform=transform, plain=True, previous=None)
    assert list(points)[:4] == ["uniform", *(f"trim {share:g}" for share in SHARES)]

    def law(name):
        return law_of(points[name], transform=transform, balance=True)

    for share in SHARES:
        plain = weights(TrimSampler(features["loss"], share))
        assert np.allclose(tables.weights(law(f"trim {share:g}")), plain)
        w = TrimSampler(features["loss"], share).weights * class_frequency(LABELS).numpy() ** -1.0
        assert np.allclose(tables.weights(law(f"balanced trim {share:g}")), w / w.sum())
    assert np.allclose(tables.weights(law("balanced")), weights(BalancedSampler(LABELS)))
    with pytest.warns(NoEffectWarning):
        assert np.allclose(tables.weights(law("uniform")), 1 / N)


def test_tied_values_are_kept_or_left_together():
    features = FeatureTable({"loss": torch.tensor([0.0] * 60 + [1.0] * 40), "gradient": torch.ones(100)})
    points = first_points(FeatureTables(features), transform="cgf", plain=True, previous=None)
    p = FeatureTables(features).weights(law_of(points["trim 0.5"]))
    assert (p > 0).sum() == 60


def test_a_previous_law_is_tried_and_comes_back_as_it_was():
    for law in (
        SwiftLaw((0.6, -0.8), (0.2, 0.5, 0.7), (1.0, 0.8, 0.6, 0.0, 0.1)),
        SwiftLaw((-0.6, 0.8), (0.2, 0.5, 0.7), (0.5, 0.4, 0.3, 0.0, 0.1), "cdf", 0.4),
    ):
        again = law_of(point_of(law, balance=True), transform=law.transform, balance=True)
        sign = 1 if law.coefficients[0] > 0 else -1
        assert again.coefficients == pytest.approx([sign * c for c in law.coefficients])
        heights = np.array(law.heights)[::sign] / max(law.heights)
        assert again.heights == pytest.approx(heights)
        assert again.balance == law.balance
    found = search_swift(share_of_right, planted()[0], trials=12, seed=3, repeats=0)
    again = search_swift(share_of_right, planted()[0], trials=5, seed=4, repeats=0, previous=found.law)
    assert again.search.score >= found.search.score - 0.05  # other draws
    with pytest.raises(ValueError, match="a law over 1 features, but there are 2"):
        search_swift(share_of_right, planted()[0], trials=5, previous=SwiftLaw((1.0,), (0.1,) * 3, (1.0,) * 5))


def test_the_result_is_never_worse_than_the_plain_laws_and_the_journal_names_them(tmp_path):
    policy = search_swift(share_of_right, planted()[0], trials=4, seed=3, out=tmp_path, repeats=0)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["config"]["first"] == ["uniform", "trim 0.85", "trim 0.7", "trim 0.5"]
    assert policy.search.score == max(line["score"] for line in lines[1:5])
    p = policy.weights(planted()[0]).numpy()
    assert set(np.unique(np.round(p * N, 6)).tolist()) in ({0.0, 2.0}, {0.0, round(1 / 0.7, 6)})
    assert search_swift(share_of_right, planted()[0], trials=4, seed=3, out=tmp_path, repeats=0) == policy


def test_repeats_say_how_noisy_a_score_is(tmp_path):
    policy = search_swift(share_of_right, planted()[0], trials=6, seed=3, out=tmp_path, repeats=4)
    noise = policy.search.config["score_noise"]
    assert 0.003 < noise < 0.1  # of 400 draws
    assert policy.search.budget["trials"] == 6 + 2 * 4  # the winner and uniform sampling
    assert f"another run of the law moves it by {noise:.2g}" in policy.summary()
    # the repeats are in the journal, and more trials go on without them being taken for trials
    more = search_swift(share_of_right, planted()[0], trials=14, seed=3, out=tmp_path, repeats=4)
    assert more == search_swift(share_of_right, planted()[0], trials=14, seed=3, repeats=4)
    assert more.search == search_swift(share_of_right, planted()[0], trials=14, seed=3, repeats=4).search


def test_the_winner_is_confirmed_on_what_the_search_did_not_see():
    """The search's score is luck alone; the other half knows that trimming is good."""
    luck = torch_generator(0)

    def lucky(sampler):
        return float(torch.rand((), generator=luck)) + 0 * len(list(sampler))

    policy = search_swift(lucky, planted()[0], trials=20, seed=3, confirm=share_of_right, repeats=3)
    facts = policy.search.config
    wrong = planted()[1]
    scores = {name: facts[name] for name in ("search_score", "uniform_score", "score_noise")}
    assert all(isinstance(value, float) for value in scores.values())
    assert policy.search.score >= facts["uniform_score"]
    assert policy.search.budget["trials"] in {20 + 3 * laws + 3 * told for laws in (2, 3) for told in (1, 2)}
    assert policy.weights(planted()[0]).numpy()[wrong].sum() < 0.4  # never a law that is worse than uniform there


def test_a_law_that_only_the_search_likes_is_not_confirmed():
    def narrow(sampler):
        return -float(len(np.unique(list(sampler))))

    def wide(sampler):
        return float(len(np.unique(list(sampler))))

    with pytest.warns(NoEffectWarning, match="policy is uniform"):
        policy = search_swift(narrow, planted()[0], trials=12, seed=3, confirm=wide, repeats=2)
    assert set(policy.law.heights) == {1.0}


def test_a_balanced_law_is_saved_shown_and_drawn(tmp_path):
    features = with_classes()
    law = SwiftLaw((1.0, 0.0), (0.3, 0.5, 0.6), (1.0,) * 5, "cgf", 1.0)
    policy = SwiftPolicy.fit(law, features)
    policy.save(tmp_path)
    again = load_policy(tmp_path)
    assert again == policy
    assert again.law == law
    assert "times (frequency of the sample's class) ** -1.00" in again.summary()
    assert "depends on class_frequency" in again.summary()
    assert np.allclose(weights(SwiftSampler(again, features)), weights(BalancedSampler(LABELS)))
    half = SwiftLaw((1.0, 0.0), law.knots, law.heights, "cgf", 0.5)
    assert policy.digest() != SwiftPolicy.fit(half, features).digest()
    with pytest.raises(KeyError, match="class_frequency' is missing, by which the law balances"):
        SwiftSampler(again, planted()[0])
    with pytest.raises(ValueError, match=r"class_frequency\[0\]=0.0: must lie in \(0, 1\]"):
        FeatureTables(features.with_columns({"class_frequency": torch.zeros(N)}))
    again.plot(tmp_path / "law.png")


def test_the_balance_is_searched():
    """An objective that wants every class as often as any other and no wrong sample."""
    features, wrong = with_classes(), planted()[1]
    labels = LABELS.numpy()

    def objective(sampler):
        order = np.array(list(sampler))
        shares = np.bincount(labels[order], minlength=3) / len(order)
        return -float(np.abs(shares - 1 / 3).sum()) - float(wrong[order].mean())

    policy = search_swift(objective, features, trials=20, seed=0, repeats=0)
    assert policy.law.balance > 0.5
    uniform = search_swift(objective, planted()[0], trials=20, seed=0, repeats=0)
    assert policy.search.score > uniform.search.score


# ---- search_trim


def test_the_best_share_is_found_and_is_a_policy(tmp_path):
    features = planted()[0]
    policy = search_trim(share_of_right, features, repeats=3, seed=1, out=tmp_path)
    share = policy.search.config["share"]
    assert share in (0.6, 0.5, 0.7)
    assert np.allclose(policy.weights(features), weights(TrimSampler(features["loss"], share)))
    assert policy.search.budget["trials"] == 24
    assert load_policy(tmp_path) == policy == search_trim(share_of_right, features, repeats=3, seed=1, out=tmp_path)
    assert "draws per sample" in policy.summary()


def test_balanced_shares_are_tried_too():
    features, labels, wrong = with_classes(), LABELS.numpy(), planted()[1]

    def objective(sampler):
        order = np.array(list(sampler))
        return -float(np.abs(np.bincount(labels[order], minlength=3) / len(order) - 1 / 3).sum())

    policy = search_trim(objective, features, shares=(1.0, 0.6), balance=(0, 1), repeats=2)
    assert policy.law.balance == 1.0
    with pytest.raises(KeyError, match="class_frequency' is missing, by which balance= weighs"):
        search_trim(objective, planted()[0], balance=(1.0,))
    assert wrong.any()


def test_where_nothing_is_to_be_trimmed_the_trim_search_says_so():
    with pytest.warns(NoEffectWarning, match="keeping everything scored best"):
        policy = search_trim(lambda s: float(len(np.unique(list(s)))), planted()[0], repeats=1)
    assert set(policy.law.heights) == {1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": ()}, r"shares=\(\)"),
        ({"shares": (0.0,)}, "shares=0.0"),
        ({"balance": (2.0,)}, "balance=2.0"),
        ({"repeats": 0}, "repeats=0"),
        ({"column": "los"}, "column='los': must be one of 'loss', 'entropy', 'gradient'"),
    ],
)
def test_bad_options_of_the_trim_search_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        search_trim(share_of_right, planted()[0], **options)
