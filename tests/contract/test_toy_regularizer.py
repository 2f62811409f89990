"""The penalty seam, proven with the simplest penalty before any method uses it."""

from tamis.testing import RegularizerContract


class TestScaleL1(RegularizerContract):
    factory = "tamis.testing.toys:make_scale_l1"
