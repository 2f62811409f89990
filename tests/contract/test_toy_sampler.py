"""The seams, proven with the simplest sampler before any method uses them."""

from tamis.testing import SamplerContract


class TestShuffleSampler(SamplerContract):
    factory = "tamis.testing.toys:make_shuffle_sampler"
    settings = ((0, 1), (0, 2), (2, 1), (2, 2))
