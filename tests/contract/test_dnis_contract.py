from tamis.testing import PrunerContract


class TestDNIS(PrunerContract):
    factory = "tests.contract.factories:make_dnis"
    plain = "tests.contract.factories:make_deepfm"


class TestDNISValues(PrunerContract):
    factory = "tests.contract.factories:make_dnis_values"
    plain = "tests.contract.factories:make_deepfm"
