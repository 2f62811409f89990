"""The mixture of sources keeps every promise of a tamis sampler, in the three trainers."""

from tamis.samplers import MixtureSampler
from tamis.testing import SamplerContract

SOURCES = {"web": 14, "books": 7, "code": 3}


def make(seed=3):
    """24 items, weights that change within the first epoch and after it."""
    sampler = MixtureSampler(SOURCES, {"web": 0.4, "books": 0.4, "code": 0.2}, seed=seed)
    sampler.set_weights({"web": 0.2, "books": 0.2, "code": 0.6}, epoch=0, position=9)
    sampler.set_weights({"web": 0.8, "books": 0.2, "code": 0.0}, epoch=1)
    return sampler


def make_renormalised(seed=3):
    """All 24 items once, small sources first; weights are a function of the epoch."""
    return MixtureSampler(SOURCES, lambda_of_epoch, exhausted="renormalise", seed=seed)


def lambda_of_epoch(epoch):
    return {"web": 1 + epoch, "books": 2, "code": 1}


class TestMixture(SamplerContract):
    factory = "tests.contract.test_mixture_contract:make"
    settings = ((0, 1), (2, 2))


class TestRenormalised(SamplerContract):
    factory = "tests.contract.test_mixture_contract:make_renormalised"
    settings = ((0, 1),)
