"""LabelAwareAugment keeps the transform contract, on PIL images and on tensors with two copies of each."""

from tamis.testing import TransformContract


class TestOnPil(TransformContract):
    factory = "tests.contract.label_aware_factories:make_pil"


class TestOnTensors(TransformContract):
    factory = "tests.contract.label_aware_factories:make_tensors"


class TestMenuOnPil(TransformContract):
    factory = "tests.contract.label_aware_factories:make_menu_pil"


class TestMenuOnTensors(TransformContract):
    factory = "tests.contract.label_aware_factories:make_menu_tensors"
