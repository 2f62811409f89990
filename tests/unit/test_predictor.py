"""The neural predictor: its network against a slow one, its symmetries, and that it learns."""

import numpy as np
import pytest
import torch

from tamis.core.rng import torch_generator
from tamis.optimizers.mrmr import counts, multisets
from tamis.optimizers.predictor import Predictor, PredictorConfig
from tests.reference import label_aware as reference

SETS = multisets(6, 3)
COUNTS = torch.from_numpy(counts(SETS, 6))
SMALL = PredictorConfig(ensemble=2, width=16, epochs=60)


def trials(rows=300, groups=3, seed=0):
    """Rewards that depend on how often items 0 and 1 occur: item 0 suits group 0 and harms group 1."""
    generator = torch_generator(seed)
    sets = torch.randint(len(SETS), (rows,), generator=generator)
    labels = torch.randint(groups, (rows,), generator=generator)
    return sets, labels, worth(groups)[labels, sets]


def worth(groups=3):
    effect = torch.tensor([[0.05, -0.1], [-0.1, 0.0], [0.0, -0.02]])[:groups]
    return effect @ COUNTS[:, :2].T.float() - 0.05


def test_its_network_equals_the_slow_one():
    predictor = Predictor(COUNTS, 3, PredictorConfig(ensemble=2, width=5), seed=4, silent=5)
    rows, labels = torch.tensor([0, 7, 30]), torch.tensor([2, 0, 1])
    got = predictor._forward(rows, labels)
    for member in range(2):
        weights = [weight[member].double().numpy() for weight in predictor.weights]
        for row, label, value in zip(rows, labels, got[member], strict=True):
            features = predictor.features[row].double().numpy()
            want = reference.predictor(weights, features, int(label), 5)
            assert abs(float(value) - want) < 1e-5


def test_identity_adds_nothing_and_order_is_not_seen():
    predictor = Predictor(COUNTS, 1, SMALL, silent=5)
    assert torch.equal(predictor.features[:, 5], torch.zeros(len(SETS)))
    alone = predictor.features[[tuple(row) for row in SETS].index((0, 5, 5))]
    assert torch.allclose(alone, torch.tensor([1 / 3, 0, 0, 0, 0, 0]))


def test_it_learns_what_suits_each_group_and_ranks_unseen_sets():
    predicted = Predictor(COUNTS, 3, SMALL, seed=1).fit(*trials()).predict()
    assert predicted.shape == (3, len(SETS))
    for group in range(2):
        ranks = [np.argsort(np.argsort(table[group])) for table in (predicted.numpy(), worth().numpy())]
        assert np.corrcoef(*ranks)[0, 1] > 0.8
    assert (predicted - worth()).abs().mean() < 0.03


def test_the_same_seed_gives_the_same_bits():
    first, second, other = (Predictor(COUNTS, 3, SMALL, seed=seed).fit(*trials()).predict() for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_constant_reward_is_predicted():
    sets, labels, _ = trials(20)
    predicted = Predictor(COUNTS, 3, SMALL).fit(sets, labels, torch.full((20,), -0.25)).predict()
    assert (predicted + 0.25).abs().max() < 0.5
    assert torch.isfinite(predicted).all()


def test_its_cost_is_bounded():
    steps = []
    config = PredictorConfig(ensemble=1, width=4, epochs=100, batch=64, max_rows=1000)
    predictor = Predictor(COUNTS, 3, config)
    forward = predictor._forward
    predictor._forward = lambda sets, groups: (steps.append(len(sets)), forward(sets, groups))[1]
    predictor.fit(*trials(300))
    assert sum(steps) == 900


@pytest.mark.parametrize("values", [{"ensemble": 0}, {"width": 0}, {"rate": 0.0}, {"epochs": 1.5}, {"max_rows": 0}])
def test_wrong_options_are_refused(values):
    with pytest.raises((TypeError, ValueError), match=next(iter(values))):
        PredictorConfig(**values)


@pytest.mark.parametrize("rewards", [torch.zeros(0), torch.tensor([float("nan")])])
def test_rewards_must_be_finite(rewards):
    with pytest.raises(ValueError, match="finite"):
        Predictor(COUNTS, 3, SMALL).fit(torch.zeros(len(rewards), dtype=torch.long), torch.zeros(len(rewards)), rewards)
