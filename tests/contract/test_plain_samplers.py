"""The plain samplers keep every promise of a tamis sampler, in the three trainers."""

import torch

from tamis.core.rng import torch_generator
from tamis.samplers import BalancedSampler, TemperatureSampler, TrimSampler
from tamis.testing import SamplerContract

LOSS = torch.rand(24, generator=torch_generator(5))
LABELS = torch.tensor([0] * 14 + [1] * 7 + [2] * 3)


def make_trim(seed=3):
    return TrimSampler(LOSS, 0.7, seed=seed)


def make_balanced_trim(seed=3):
    return TrimSampler(LOSS, 0.7, labels=LABELS, per_class=True, balanced=True, seed=seed)


def make_balanced(seed=3):
    return BalancedSampler(LABELS, seed=seed)


def make_temperature(seed=3):
    return TemperatureSampler(torch.arange(24), 0.5, 12, replacement=False, seed=seed)


class TestTrim(SamplerContract):
    factory = "tests.contract.test_plain_samplers:make_trim"
    settings = ((0, 1),)


class TestBalancedTrim(SamplerContract):
    factory = "tests.contract.test_plain_samplers:make_balanced_trim"
    settings = ((2, 2),)


class TestBalanced(SamplerContract):
    factory = "tests.contract.test_plain_samplers:make_balanced"
    settings = ((0, 2),)


class TestTemperature(SamplerContract):
    factory = "tests.contract.test_plain_samplers:make_temperature"
    settings = ((2, 1),)
