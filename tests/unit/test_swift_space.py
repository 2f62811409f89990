"""The cube that optimizers of a Swift law search: every point is a law, every law is a point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.core.errors import NoEffectWarning
from tamis.samplers.swift.sampler import FeatureTables
from tamis.search.swift import dimensions, law_of
from tests.unit.test_swift_search import planted


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_every_point_is_a_law_with_its_highest_height_1(point):
    law = law_of(np.array(point))
    assert max(law.heights) == 1.0
    assert law.coefficients[0] >= 0
    assert np.hypot(*law.coefficients) == pytest.approx(1)
    assert len(law.to_vector()) == 10


@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=5).filter(lambda v: max(v) > 0.01),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.floats(-1, 1),
)
def test_every_law_of_the_paper_is_some_point(heights, knots, c2):
    v = np.array(heights) / max(heights)
    c = np.array([1.0, c2]) / np.hypot(1.0, c2)
    point = np.concatenate([knots, (np.diff(v) + 1) / 2, [np.arcsin(c[1]) / np.pi + 0.5]])
    law = law_of(point)
    assert law.knots == pytest.approx(sorted(knots))
    assert law.heights == pytest.approx(v, abs=1e-9)
    assert law.coefficients == pytest.approx(c, abs=1e-9)


def test_dimensions():
    assert [dimensions(n) for n in (1, 2, 3)] == [7, 8, 9]
    assert law_of(np.full(7, 0.5)).coefficients == (1.0,)
    assert law_of(np.full(9, 0.5)).coefficients == pytest.approx((1.0, 0.0, 0.0))
    with pytest.warns(NoEffectWarning):  # the middle of the cube is uniform
        FeatureTables(planted()[0]).weights(law_of(np.full(8, 0.5)))
