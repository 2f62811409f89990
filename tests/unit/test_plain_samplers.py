"""The plain samplers draw what their formula says, and refuse what they cannot use by name."""

import numpy as np
import pytest
import torch

from tamis.core.errors import NoEffectWarning
from tamis.core.rng import torch_generator
from tamis.features import RHO, Denoising, FeatureTable, class_frequency, rank_in_class
from tamis.samplers import BalancedSampler, CurriculumSampler, TemperatureSampler, TrimSampler

N = 100
LOSS = torch.rand(N, generator=torch_generator(1))
LABELS = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)


def test_trim_keeps_exactly_the_lowest():
    sampler = TrimSampler(LOSS, 0.3, 5000, seed=1)
    lowest = set(LOSS.argsort()[:30].tolist())
    assert set(sampler) == lowest
    once = TrimSampler(LOSS, 0.3, replacement=False)
    assert len(once) == 30
    assert set(once) == lowest


def test_trim_per_class_and_balanced():
    high_in_tail = LOSS + (LABELS > 0)
    plain = TrimSampler(high_in_tail, 0.8, replacement=False)
    assert not set(LABELS[list(plain)].tolist()) - {0}  # what trimming does to a rare class
    sampler = TrimSampler(high_in_tail, 0.8, 30_000, labels=LABELS, per_class=True, balanced=True)
    drawn = LABELS[list(sampler)]
    assert np.allclose(np.bincount(drawn) / len(drawn), 1 / 3, atol=0.02)
    assert {int(c): int((sampler.weights[c == LABELS] > 0).sum()) for c in range(3)} == {0: 64, 1: 12, 2: 4}


def test_ties_keep_the_exact_share():
    assert (TrimSampler(torch.zeros(10), 0.4).weights > 0).sum() == 4


def test_balanced_and_its_power():
    counts = np.array([80, 15, 5])
    for power in (1.0, 0.5):
        w = BalancedSampler(LABELS, power).weights
        by_class = np.array([w[c == LABELS].sum() for c in range(3)])
        assert np.allclose(by_class / by_class.sum(), counts ** (1 - power) / (counts ** (1 - power)).sum())


def test_without_replacement_classes_are_balanced_as_far_as_they_go():
    sampler = BalancedSampler(LABELS, replacement=False)
    assert len(sampler) == 15  # a permutation of all 100 balances nothing
    trimmed = TrimSampler(LOSS, 0.8, labels=LABELS, per_class=True, balanced=True, replacement=False)
    assert len(trimmed) == 4 * 3
    counts = np.zeros((2, 3))
    for row, one in zip(counts, (sampler, trimmed), strict=True):
        for epoch in range(200):
            one.set_epoch(epoch)
            drawn = list(one)
            assert len(set(drawn)) == len(drawn)
            row += np.bincount(LABELS[drawn], minlength=3)
    shares = counts / counts.sum(1, keepdims=True)
    assert (np.abs(shares - [0.41, 0.35, 0.24]) < 0.04).all()  # 0.8, 0.15 and 0.05 of the data


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: BalancedSampler(LABELS, num_samples=N, **options),
        lambda **options: TemperatureSampler(1.0 + LOSS, 0.5, **options),
        lambda **options: TrimSampler(LOSS, 1.0, N, labels=LABELS, balanced=True, **options),
    ],
)
def test_weights_that_only_order_a_permutation_are_said_to_change_nothing(make):
    with pytest.warns(
        NoEffectWarning, match="replacement=False draws each of the 100 samples once .*pass num_samples="
    ):
        make(replacement=False)
    make()
    TrimSampler(LOSS, 0.5, replacement=False)  # its zeros count


def test_a_data_set_gives_its_labels():
    data = torch.utils.data.TensorDataset(torch.zeros(N, 2), LABELS)
    assert np.array_equal(BalancedSampler(data).weights, BalancedSampler(LABELS).weights)
    assert torch.equal(class_frequency(data), class_frequency(LABELS.tolist()))


def test_temperature():
    sampler = TemperatureSampler([0.0, 1.0, 4.0], 0.5)
    assert np.allclose(sampler.weights / sampler.weights.sum(), [0, 1 / 3, 2 / 3])
    assert np.isfinite(TemperatureSampler([1e200, 2e200], 2.0).weights).all()
    with pytest.warns(NoEffectWarning, match="TemperatureSampler: all 2"):
        TemperatureSampler([1.0, 5.0], 0.0)


def test_keeping_all_is_said_to_change_nothing():
    with pytest.warns(NoEffectWarning, match="TrimSampler: all 100 weights are equal"):
        TrimSampler(LOSS, 1.0)


def test_a_state_of_other_settings_is_refused():
    state = TrimSampler(LOSS, 0.3).state_dict()
    with pytest.raises(ValueError, match=r"keep=0.4, but the saved sampler had 0.3"):
        TrimSampler(LOSS, 0.4).load_state_dict(state)
    TrimSampler(LOSS, 0.3, seed=5).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrimSampler(LOSS, 0.0), r"keep=0.0: must be finite and in \(0, 1\]"),
        (lambda: TrimSampler(LOSS, 0.5, balanced=True), "labels=None: must be given with balanced=True"),
        (lambda: TrimSampler(torch.tensor([1.0, float("nan")]), 0.5), r"scores\[1\]=nan: must be finite"),
        (lambda: TrimSampler(LOSS, 0.5, labels=LABELS[:5], per_class=True), "labels: must be 100, one a sample, got 5"),
        (lambda: BalancedSampler(torch.ones(4).long()), "at least two classes, all 4 are 1"),
        (lambda: BalancedSampler(torch.tensor([0, 1, -100])), r"labels\[2\]=-100: must be >= 0"),
        (lambda: BalancedSampler(LABELS, 2.0), "power=2.0"),
        (lambda: TemperatureSampler([1.0, -1.0], 0.5), r"weights\[1\]=-1.0"),
        (lambda: TemperatureSampler(None, 0.5), r"weights: must be one-dimensional and not empty, got shape \(\)"),
        (lambda: TemperatureSampler([float("nan"), 1.0], 0.5), r"weights\[0\]=nan: must be finite and >= 0"),
        (lambda: TemperatureSampler([0.0, 0.0], 0.5), "all 2 are zero"),
        (lambda: rank_in_class(LOSS[:5], LABELS), "labels: must be 5"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("labels", [torch.rand(5), "cat dog", torch.utils.data.TensorDataset(torch.rand(4, 2))])
def test_what_are_no_labels_is_named(labels):
    with pytest.raises(TypeError, match=r"labels.*must be integers"):
        BalancedSampler(labels)


def test_words_are_no_weights():
    with pytest.raises(TypeError, match="weights: must be numbers, got <U1"):
        TemperatureSampler(["a", "b"], 0.5)


def test_frequency_and_rank_within_the_class():
    assert torch.allclose(class_frequency(LABELS)[[0, 85, 99]], torch.tensor([0.8, 0.15, 0.05]).double())
    ranks = rank_in_class(LOSS, LABELS)
    for c, size in ((0, 80), (1, 15), (2, 5)):
        part = ranks[c == LABELS]
        assert torch.allclose(part.sort().values, torch.arange(1, size + 1).double() / size)
        assert torch.equal(part.argsort(), LOSS[c == LABELS].argsort())
    assert rank_in_class(torch.zeros(4), [0, 0, 1, 1]).tolist() == [1.0] * 4


def test_denoising_and_rho_are_loss_differences_whatever_holds_the_losses():
    base, tuned = torch.rand(N), torch.rand(N)
    columns = FeatureTable({"loss": base, "tuned": tuned})
    assert torch.equal(Denoising("tuned")(columns), base - tuned)
    assert torch.equal(RHO("tuned", loss="loss")(columns), base - tuned)
    pair = ("sum", "per_token")
    groups = FeatureTable(
        {"log_likelihood": torch.stack([-9 * base, -base], 1), "tuned": torch.stack([-9 * tuned, -tuned], 1)},
        {"log_likelihood": pair, "tuned": pair},
    )
    assert torch.equal(Denoising("tuned")(groups), base - tuned)
    sampler = CurriculumSampler(Denoising("tuned"), groups, pool=N)
    assert list(sampler) == [int((base - tuned).argmax())]
    with pytest.raises(KeyError, match="nowhere"):
        Denoising("nowhere")(columns)
