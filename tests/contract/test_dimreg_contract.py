from tamis.testing import PrunerContract


class TestDimReg(PrunerContract):
    factory = "tests.contract.factories:make_dimreg"
    plain = "tests.contract.factories:make_deepfm"
