"""SwiftSampler keeps every promise of a tamis sampler, in the three trainers."""

import torch

from tamis.core.rng import torch_generator
from tamis.features.table import FeatureTable
from tamis.samplers.swift.law import SwiftLaw
from tamis.samplers.swift.sampler import SwiftPolicy, SwiftSampler
from tamis.testing import SamplerContract

LAW = SwiftLaw((1.0, -0.5), (0.3, 0.5, 0.6), (1.0, 0.8, 0.6, 0.0, 0.0))


def features(n=24):
    generator = torch_generator(5)
    loss, entropy, gradient = (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(3))
    return FeatureTable({"loss": loss, "entropy": entropy, "gradient": gradient})


def make(seed=3):
    return SwiftSampler(SwiftPolicy.fit(LAW, features()), features(), seed=seed)


class TestSwiftSampler(SamplerContract):
    factory = "tests.contract.test_swift_sampler:make"
