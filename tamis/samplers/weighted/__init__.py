"""Drawing by weight: the sampler, the batch selector and the mathematics of both."""

from tamis.samplers.weighted.batch import BatchSelector
from tamis.samplers.weighted.sampler import WeightedSampler, effective_sample_size

__all__ = ["BatchSelector", "WeightedSampler", "effective_sample_size"]
