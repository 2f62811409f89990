"""Rewards: the exact one changes nothing, the first-order one agrees with it, on all three kinds of model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tamis._core.errors import TamisError
from tamis._core.rng import torch_generator
from tamis.samplers.curriculum_gradient import exact_rewards, first_order_rewards, mean_loss, validation_gradient
from tamis.samplers.curriculum_loss import make_batch, sample_loss_of

LOSS = sample_loss_of("auto")


def tiny_t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=24, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0)
    return seeded(T5ForConditionalGeneration(config)), sequences(encoder=True)


def tiny_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return seeded(GPT2LMHeadModel(config)), sequences(encoder=False)


def tiny_classifier():
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, 3))
    generator = torch_generator(4)
    items = [(torch.randn(6, generator=generator), int(torch.randint(3, (), generator=generator))) for _ in range(60)]
    return seeded(model), items


MODELS = {"seq2seq": tiny_t5, "causal": tiny_gpt2, "classifier": tiny_classifier}


def seeded(model):
    generator = torch_generator(9)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model.train()


def sequences(encoder):
    generator, items = torch_generator(8), []
    for _ in range(60):
        ids = torch.randint(1, 24, (7,), generator=generator)
        labels = ids.flip(0).clone() if encoder else ids.clone()
        labels[int(torch.randint(4, 8, (), generator=generator)) :] = -100
        items.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return items


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


def test_a_sample_without_targets_has_reward_zero_and_an_own_step_helps():
    model, items = tiny_t5()
    empty = {**items[0], "labels": torch.full((7,), -100)}
    batches = [make_batch(items, range(10), None, model)]
    reward = exact_rewards(model, [make_batch([empty], [0], None, model)], lambda: batches, 1e-2, LOSS)
    assert reward.tolist() == [0.0]
    own = [make_batch(items, [3], None, model)]
    assert exact_rewards(model, own, lambda: own, 1e-3, LOSS)[0] > 0
    assert mean_loss(model, batches, LOSS) > 0


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
