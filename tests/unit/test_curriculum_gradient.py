"""Rewards: the exact one changes nothing, the first-order one agrees with it, on all three kinds of model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tamis.core.errors import TamisError
from tamis.features.losses import make_batch, sample_loss_of
from tamis.search.curriculum.gradient import (
    exact_rewards,
    first_order_rewards,
    mean_loss,
    path_gradient,
    validation_gradient,
)
from tests.unit.curriculum_models import MODELS, tiny_classifier, tiny_t5

LOSS = sample_loss_of("auto")


def snapshot(model, optimizer):
    return copy.deepcopy([model.state_dict(), optimizer.state_dict(), [m.training for m in model.modules()]])


def assert_same(a, b):
    assert a[2] == b[2]
    assert all(torch.equal(x, b[0][k]) for k, x in a[0].items())
    assert str(a[1]) == str(b[1])


@pytest.mark.parametrize("kind", MODELS)
def test_first_order_agrees_with_exact_and_nothing_changes(kind):
    model, items = MODELS[kind]()
    optimizer = torch.optim.AdamW(model.parameters())
    torch.stack([p.sum() for p in model.parameters()]).sum().backward()
    optimizer.step()
    before, grads = snapshot(model, optimizer), [p.grad.clone() for p in model.parameters()]
    rng = torch.get_rng_state()

    def validation():
        return [make_batch(items, range(at, at + 10), None, model) for at in (0, 10, 20)]

    gradient = validation_gradient(model, validation(), LOSS)
    first = first_order_rewards(model, make_batch(items, range(30, 60), None, model), gradient, 1e-3, LOSS)
    singles = [make_batch(items, [i], None, model) for i in range(30, 60)]
    exact = exact_rewards(model, singles, validation, 1e-3, LOSS)
    ranks = [np.argsort(np.argsort(values)) for values in (first, exact)]
    assert np.corrcoef(*ranks)[0, 1] > 0.99
    assert 0.95 < np.polyfit(first, exact, 1)[0] < 1.05
    assert_same(before, snapshot(model, optimizer))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert torch.equal(rng, torch.get_rng_state())


def test_first_order_is_the_inner_product_of_the_gradients():
    model, items = tiny_classifier()
    model.eval()
    gradient = validation_gradient(model, [make_batch(items, range(20), None, model)], LOSS)
    got = first_order_rewards(model, make_batch(items, [30, 31], None, model), gradient, 0.5, LOSS)
    for value, index in zip(got, (30, 31), strict=True):
        own = validation_gradient(model, [make_batch(items, [index], None, model)], LOSS)
        assert np.isclose(value, 0.5 * sum(float((gradient[k] * own[k]).sum()) for k in gradient), rtol=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_one_step_of_the_path_is_the_validation_gradient_and_more_are_the_descent_s(kind):
    model, items = MODELS[kind]()
    before, batches = (
        copy.deepcopy(model.state_dict()),
        [make_batch(items, range(at, at + 10), None, model) for at in (0, 10)],
    )
    want = validation_gradient(model, batches[:1], LOSS)
    one = path_gradient(model, batches[:1], LOSS, steps=1, lr=0.1)
    assert all(torch.allclose(one[name], want[name], atol=1e-5) for name in want)
    moved = path_gradient(model, batches, LOSS, steps=5, lr=0.1)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    by_hand = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for step in range(5):
        total, count = LOSS(by_hand, batches[step % 2])
        optimizer.zero_grad()
        (total.sum() / count.sum()).backward()
        optimizer.step()
    for name, end in by_hand.named_parameters():
        start = dict(model.named_parameters())[name].detach()
        assert torch.allclose(moved[name].float(), (start - end.detach()) / 0.5, atol=1e-5)


def test_a_path_that_leads_up_is_refused_and_changes_nothing():
    model, items = tiny_classifier()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TamisError, match=r"lookahead_lr=100.0: 3 steps of gradient descent brought .*; lower it"):
        path_gradient(model, [make_batch(items, range(10), None, model)], LOSS, steps=3, lr=100.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_sample_without_targets_has_reward_zero_and_an_own_step_helps():
    model, items = tiny_t5()
    empty = {**items[0], "labels": torch.full((7,), -100)}
    batches = [make_batch(items, range(10), None, model)]
    reward = exact_rewards(model, [make_batch([empty], [0], None, model)], lambda: batches, 1e-2, LOSS)
    assert reward.tolist() == [0.0]
    own = [make_batch(items, [3], None, model)]
    assert exact_rewards(model, own, lambda: own, 1e-3, LOSS)[0] > 0
    assert mean_loss(model, batches, LOSS) > 0


def test_a_loss_of_one_s_own_is_given_the_model_itself():
    model, items = nn.Linear(6, 3), [(x, y) for x, y in tiny_classifier()[1]]

    def by_hand(given, batch):
        assert type(given) is nn.Linear
        logits = batch[0] @ given.weight.T + given.bias  # without a call of the model
        return nn.functional.cross_entropy(logits, batch[1], reduction="none"), torch.ones_like(batch[1])

    batch, found = make_batch(items, range(20), None, model), []
    for loss in (LOSS, by_hand):
        found.append(first_order_rewards(model, batch, validation_gradient(model, [batch], loss), 1e-3, loss))
    assert np.abs(found[0]).min() > 0
    assert np.allclose(*found, rtol=1e-4)


def test_a_device_without_memory_is_not_taken_for_a_model_without_derivatives():
    model, items = tiny_classifier()

    def full(given, batch):
        raise torch.OutOfMemoryError("out of memory")

    gradient = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    with pytest.raises(torch.OutOfMemoryError):
        first_order_rewards(model, make_batch(items, [0], None, model), gradient, 1.0, full)


def test_steps_that_half_precision_would_swallow_are_refused():
    model, items = tiny_classifier()
    items = [(x.bfloat16(), y) for x, y in items]
    batch = make_batch(items, range(10), None, model.bfloat16())
    with pytest.raises(TamisError, match=r'reward="exact": .* below float32, .*; call model.float\(\) first'):
        exact_rewards(model, [batch], lambda: [batch], 1e-4, LOSS)
    with pytest.raises(TamisError, match=r"lookahead > 1: .* below float32"):
        path_gradient(model, [batch], LOSS, steps=3, lr=0.1)


def test_what_cannot_be_differentiated_or_measured_is_said():
    model, items = tiny_t5()
    with pytest.raises(TamisError, match="no target token"):
        mean_loss(model, [], LOSS)
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(TamisError, match="no parameter"):
        validation_gradient(model, [make_batch(items, [0], None, model)], LOSS)
    model, items = tiny_classifier()
    broken = nn.Sequential(model, _NoForward())
    gradient = {name: torch.ones_like(p) for name, p in broken.named_parameters()}
    with pytest.raises(TamisError, match='reward="exact"'):
        first_order_rewards(broken, make_batch(items, [0], None, model), gradient, 1.0, LOSS)


class _NoForward(nn.Module):
    def forward(self, x):
        return _Twice.apply(x)


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad
