from tamis.testing import SamplerContract


class TestIndependentDraws(SamplerContract):
    factory = "tests.contract.factories:make_weighted"


class TestWithoutReplacement(SamplerContract):
    factory = "tests.contract.factories:make_weighted_without_replacement"
    settings = ((2, 2),)


class TestSystematicDraws(SamplerContract):
    factory = "tests.contract.factories:make_systematic"
    settings = ((0, 1),)
