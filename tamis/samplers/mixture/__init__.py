"""Several data sets in one order, by weight."""

from tamis.samplers.mixture.sampler import MixtureSampler

__all__ = ["MixtureSampler"]
