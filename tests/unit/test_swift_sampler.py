"""SwiftPolicy as an artefact, and SwiftSampler: the law's probabilities, drawn."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

import tamis.policy.base as core
from tamis.core.errors import PolicyError
from tamis.core.rng import torch_generator
from tamis.features.table import FeatureTable
from tamis.samplers.swift.law import BINS, SwiftLaw
from tamis.samplers.swift.sampler import SwiftPolicy, SwiftSampler

uniform_is_fine = pytest.mark.filterwarnings("ignore::tamis.core.errors.NoEffectWarning")
LAW = SwiftLaw((1.0, -0.5), (0.3, 0.5, 0.6), (1.0, 0.8, 0.6, 0.0, 0.0))


def make(n=60, seed=5):
    generator = torch_generator(seed)
    loss, entropy, gradient = (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(3))
    return FeatureTable({"loss": loss, "entropy": entropy, "gradient": gradient})


def test_draws_follow_the_law():
    features = make()
    policy = SwiftPolicy.fit(LAW, features)
    p = policy.weights(features).numpy()
    sampler = SwiftSampler(policy, features, 60_000, seed=1)
    counts = np.bincount(list(sampler), minlength=60)
    assert (counts[p == 0] == 0).all()
    assert (p == 0).any()
    kept = p > 0
    assert stats.chisquare(counts[kept], 60_000 * p[kept] / p[kept].sum()).pvalue > 0.001
    assert sampler.effective_sample_size == pytest.approx(1 / (p**2).sum())


def test_without_replacement_no_sample_comes_twice():
    features = make()
    sampler = SwiftSampler(SwiftPolicy.fit(LAW, features), features, 20, replacement=False)
    order = list(sampler)
    assert len(set(order)) == len(order) == 20


def test_the_state_belongs_to_one_policy():
    features = make()
    sampler = SwiftSampler(SwiftPolicy.fit(LAW, features), features)
    other = SwiftLaw((1.0, 0.5), LAW.knots, LAW.heights)
    with pytest.raises(ValueError, match="another policy"):
        SwiftSampler(SwiftPolicy.fit(other, features), features).load_state_dict(sampler.state_dict())


@pytest.mark.parametrize("n", [60, BINS + 100])
def test_a_saved_policy_comes_back_bit_for_bit(tmp_path, n):
    features = make(n)
    policy = SwiftPolicy.fit(LAW, features)
    policy.save(tmp_path)
    again = core.load_policy(tmp_path)
    assert again == policy
    assert again.law == LAW
    assert again.digest() == policy.digest()
    assert torch.equal(again.weights(features), policy.weights(features))


def test_a_damaged_policy_is_refused():
    policy = SwiftPolicy.fit(LAW, make())
    keys = policy.tables["loss.keys"]
    for change, message in [
        ({"loss.keys": keys.flip(0)}, "keys must increase"),
        ({"loss.values": policy.tables["loss.values"][:-1]}, "one value more"),
        ({"profile": policy.tables["profile"].float()}, "finite float64"),
        ({"transform.values": policy.tables["transform.values"] * 2}, "from 0 to 1"),
        ({"own": keys}, "at most transform.keys"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(policy, tables={**policy.tables, **change})
    with pytest.raises(ValueError, match="as many as coefficients"):
        dataclasses.replace(policy, names=("loss",))
    with pytest.raises(PolicyError):
        policy.check(data=core.DataInfo(n=61))


def test_missing_and_unfit_columns_are_refused():
    policy = SwiftPolicy.fit(LAW, make())
    with pytest.raises(KeyError, match="entropy"):
        policy.score({"loss": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"entropy\[1\]"):
        policy.score({"loss": torch.zeros(2), "entropy": torch.tensor([0.0, float("nan")])})
    with pytest.raises(ValueError, match="one a feature"):
        SwiftPolicy.fit(SwiftLaw((1.0,), LAW.knots, LAW.heights), make())


def test_summary_and_picture_say_what_the_law_does(tmp_path):
    features = make(1000)
    policy = SwiftPolicy.fit(SwiftLaw((1.0, 0.0), LAW.knots, LAW.heights), features)
    assert "from the lowest to the highest fifth of loss" in policy.summary()
    top_fifth = policy.summary().split("fifth of loss: ")[1].split(" / ")[4]
    assert top_fifth.startswith("0.00")  # heights are 0 above knot 0.6
    p = policy.weights(features)
    highest = features["loss"].argsort()[-200:]
    assert float(p[highest].sum()) == 0
    figure = policy.plot(tmp_path / "law.png")
    assert (tmp_path / "law.png").stat().st_size > 1000
    curve = figure.axes[1].lines[0].get_ydata()
    assert curve[-20:].sum() == 0
    assert curve.mean() == pytest.approx(1, abs=1e-9)


def test_one_feature_only(tmp_path):
    both = make()
    features = both.select_columns(["loss", "gradient"])
    policy = SwiftPolicy.fit(SwiftLaw((-1.0,), LAW.knots, LAW.heights), features)
    policy.plot(tmp_path / "law.png")
    p = policy.weights(features)
    assert p[features["loss"].argmin()] == 0  # ranked downwards: the lowest loss comes last


def test_what_is_no_policy_is_refused_with_the_cure(tmp_path):
    features = make()
    policy = SwiftPolicy.fit(LAW, features)
    policy.save(tmp_path)
    for wrong, message in (
        (str(tmp_path), rf"not where it lies; pass tamis.load_policy\('{tmp_path}'\)"),
        (tmp_path, rf"not where it lies; pass tamis.load_policy\('{tmp_path}'\)"),
        (LAW, r"make one with SwiftPolicy.fit\(law, features\)"),
        ({"names": ["loss"]}, "from search_swift or tamis.load_policy.*, got dict"),
    ):
        with pytest.raises(TypeError, match=message):
            SwiftSampler(wrong, features)


def test_what_is_no_features_is_refused_with_the_cure():
    features = make()
    policy = SwiftPolicy.fit(LAW, features)
    for use in (lambda f: SwiftSampler(policy, f), policy.weights, lambda f: SwiftPolicy.fit(LAW, f)):
        with pytest.raises(TypeError, match=r"features=Tensor of shape \[60\]: must be a FeatureTable; take one with"):
            use(features["loss"])
        with pytest.raises(
            TypeError, match=r"features=dict: .*FeatureTable\(\{'loss': losses, 'gradient': gradient_norms\}\)"
        ):
            use(features.groups)
        with pytest.raises(TypeError, match=r"features=str: .*FeatureTable.load\(path\)"):
            use("features.safetensors")


def fifths(policy):
    return [float(v) for v in policy.summary().split("fifth of loss: ")[1].split(" (")[0].split(" / ")]


@uniform_is_fine
@pytest.mark.parametrize("n", [3, 7, 40, 99, 101, 150])
def test_a_uniform_law_over_few_samples_is_said_to_be_uniform(n):
    policy = SwiftPolicy.fit(SwiftLaw((1.0, 0.0), LAW.knots, (1.0,) * 5), make(n))
    assert fifths(policy) == [1.0] * 5
    curve = policy.plot().axes[1].lines[0].get_ydata()
    assert np.allclose(curve, 1)


@uniform_is_fine
def test_a_uniform_law_over_tied_samples_is_said_to_be_uniform():
    features = make(1000)
    loss = torch.where(torch.arange(1000) < 300, torch.zeros(()).double(), features["loss"] + 1)  # solved samples
    policy = SwiftPolicy.fit(SwiftLaw((1.0, 0.0), LAW.knots, (1.0,) * 5), features.with_columns({"loss": loss}))
    assert fifths(policy) == [1.0] * 5


def test_tied_samples_share_the_percentiles_that_they_fill():
    n = 10
    loss = torch.tensor([0.0] * 5 + [1.0] * 5, dtype=torch.float64)
    features = FeatureTable({"loss": loss, "gradient": torch.ones(n)})
    law = SwiftLaw((1.0,), (0.7, 0.7, 0.9), (1.0, 1.0, 0.0, 0.0, 0.0), "cdf")  # the lower half only
    policy = SwiftPolicy.fit(law, features)
    assert fifths(policy) == [2.0, 2.0, 1.0, 0.0, 0.0]
    assert policy.tables["profile"].mean() == pytest.approx(1)


@uniform_is_fine
def test_a_profile_that_the_first_release_took_wrongly_is_not_shown():
    policy = SwiftPolicy.fit(SwiftLaw((1.0, 0.0), LAW.knots, (1.0,) * 5), make(40))
    wrong = torch.zeros(100, dtype=torch.float64)
    wrong[::3] = 1.0  # what a uniform law of 40 samples looked like
    old = dataclasses.replace(policy, tables={**policy.tables, "profile": wrong})
    assert "not known (release 0.1 took them wrongly" in old.summary()
    assert not [line for line in old.plot().axes[1].lines if len(line.get_ydata()) == 100]
