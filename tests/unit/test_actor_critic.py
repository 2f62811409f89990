"""The agent: equivariant over the pool, gradients where the paper has them, and near the oracle on a known problem."""

import numpy as np
import pytest
import torch

from tamis.core.errors import TamisError
from tamis.core.rng import numpy_generator, torch_generator
from tamis.samplers.curriculum.agent import AgentNetwork, initialise
from tamis.search.curriculum.actor_critic import (
    AgentConfig,
    Critic,
    actor_loss,
    critic_loss,
    standardise,
    train_agent,
)
from tests.reference import curriculum as reference

GROUPS = {"length": 2, "log_likelihood": 2, "own": 3}
QUICK = AgentConfig(steps=60, warm_up=20, replay=30, batch=4, hidden=(8, 8), trailing=20, keep_every=10)


def scorer():
    net = AgentNetwork(GROUPS, (6, 5))
    initialise(net, 3)
    return net


def test_scores_equal_the_reference():
    net, x = scorer(), torch.randn(7, 7, generator=torch_generator(1))
    state = {name: value.tolist() for name, value in net.state_dict().items()}
    for row, score in zip(x.tolist(), net(x).tolist(), strict=True):
        groups = [row[0:2], row[2:4], row[4:7]]
        assert np.isclose(reference.actor_score(state, groups), score, atol=1e-6)


def test_the_paper_s_state_has_57_numbers():
    assert AgentNetwork({"length": 2, "log_likelihood": 2, "tags": 8, "rarity": 32}).features.width == 57


def test_permuting_a_pool_permutes_scores_and_128_are_served_as_16():
    net = scorer()
    critic = Critic(net, (6, 5))
    initialise(critic.head, 4)
    x, action = torch.randn(128, 7, generator=torch_generator(2)), torch.full((128,), 1 / 128)
    order = torch.randperm(128, generator=torch_generator(3))
    assert torch.allclose(net(x)[order], net(x[order]), atol=1e-6)
    assert torch.allclose(
        critic(critic.features(x), action)[order], critic(critic.features(x[order]), action), atol=1e-6
    )
    assert torch.allclose(net(x)[:16], net(x[:16]), atol=1e-6)


def test_only_the_critic_moves_the_feature_network():
    net = scorer()
    critic = Critic(net, (6, 5))
    x, action = torch.randn(2, 5, 7, generator=torch_generator(2)), torch.full((2, 5), 0.2)
    critic_loss(critic, x, action, torch.ones(2, 5)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.features.parameters())
    assert all(p.grad is None for p in net.actor.parameters())
    for p in net.features.parameters():
        p.grad = None
    actor_loss(net, critic, x).backward()
    assert all(p.grad is None for p in net.features.parameters())
    assert any(p.grad.abs().sum() > 0 for p in net.actor.parameters())


def test_unselected_candidates_have_target_zero():
    net = scorer()
    critic = Critic(net, (6, 5))
    x, action = torch.randn(1, 3, 7, generator=torch_generator(2)), torch.tensor([[0.0, 1.0, 0.0]])
    values = critic(critic.features(x), action)[0]
    want = (values[0] ** 2 + (5 - values[1]) ** 2 + values[2] ** 2) / 3
    assert torch.isclose(critic_loss(critic, x, action, torch.tensor([[9.0, 5.0, -9.0]])), want)


def logistic_regression(seed, n=1500, d=8):
    """30 % flipped labels and every exact reward: features [n, 1 + d], rewards [n], flipped [n]."""
    generator = numpy_generator(77, seed)
    truth, x = generator.normal(size=d), generator.normal(size=(n + 1000, d))
    clean = (x @ truth > 0).astype(float)
    flipped = generator.random(n) < 0.3
    y = np.where(flipped, 1 - clean[:n], clean[:n])
    weights = np.zeros(d)
    for _ in range(200):
        weights -= x[:n].T @ (1 / (1 + np.exp(-x[:n] @ weights)) - y) / n

    def loss(w):
        z = x[n:] @ w
        return np.mean(np.logaddexp(0, z) - clean[n:] * z)

    z = x[:n] @ weights
    gradients = ((1 / (1 + np.exp(-z))) - y)[:, None] * x[:n]
    rewards = np.array([loss(weights) - loss(weights - 1e-2 * g) for g in gradients])
    sign = 2 * y - 1
    features = np.concatenate([-np.logaddexp(0, -sign * z)[:, None], x[:n] * sign[:, None]], 1)
    return torch.from_numpy(features).float(), rewards, flipped


@pytest.mark.parametrize("observe", ["all", "chosen"])
def test_logistic_regression_reaches_nine_tenths_of_the_oracle(observe):
    features, rewards, flipped = logistic_regression(0)
    mean, scale = standardise(features)
    x = (features - mean) / scale
    config = AgentConfig(steps=500, warm_up=120, hidden=(48, 48), observe=observe, trailing=200, keep_every=50)
    found = train_agent(x, lambda i: rewards[i], {"log_likelihood": 1, "signed": 8}, pool=16, config=config)
    generator = numpy_generator(5)
    pools = np.stack([generator.choice(len(x), 16, replace=False) for _ in range(1000)])
    scores = found.scorer(x).detach().numpy()
    picked = pools[np.arange(len(pools)), scores[pools].argmax(1)]
    oracle = rewards[pools].max(1).mean()
    assert rewards[picked].mean() >= 0.9 * oracle
    assert rewards.mean() < 0.1 * oracle
    assert flipped[picked].mean() < 0.05
    assert found.observed == 500 * (16 if observe == "all" else 1)


def test_training_is_a_pure_function_of_its_arguments():
    x = torch.randn(50, 7, generator=torch_generator(6))
    rewards = x[:, 0].numpy()
    first, again = (train_agent(x, lambda i: rewards[i], GROUPS, pool=5, config=QUICK, seed=1) for _ in range(2))
    other = train_agent(x, lambda i: rewards[i], GROUPS, pool=5, config=QUICK, seed=2)
    assert first.history == again.history != other.history
    assert all(torch.equal(a, b) for a, b in zip(first.scorer.parameters(), again.scorer.parameters(), strict=True))


@pytest.mark.parametrize("trailing", [1, 3])
def test_the_trailing_sum_is_of_so_many_steps(trailing):
    seen = []

    def rewards(indices):
        seen.append(float(indices[0]))
        return indices.astype(float)

    config = AgentConfig(steps=12, warm_up=4, hidden=(4, 4), observe="chosen", trailing=trailing, keep_every=1)
    found = train_agent(torch.randn(20, 2, generator=torch_generator(1)), rewards, {"x": 2}, pool=3, config=config)
    assert np.allclose(found.history, [np.mean(seen[k + 1 - trailing : k + 1]) for k in range(4, 12)])


def test_bad_input_is_named():
    x = torch.zeros(9, 7)
    with pytest.raises(ValueError, match="pool=10: must be <= the 9 samples"):
        train_agent(x, lambda i: np.zeros(len(i)), GROUPS, pool=10, config=QUICK)
    with pytest.raises(TamisError, match="must be finite"):
        train_agent(x, lambda i: np.full(len(i), np.nan), GROUPS, pool=3, config=QUICK)
    with pytest.raises(ValueError, match="observe='some'"):
        AgentConfig(observe="some")
    with pytest.raises(ValueError, match="hidden"):
        AgentConfig(hidden=(3, 0))
    with pytest.raises(ValueError, match="warm_up"):
        AgentConfig(steps=10, warm_up=11)
