"""Keyed randomness: a key names one stream, and no two keys share one."""

import numpy as np
import pytest
import torch

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.rng import check_seed, numpy_generator, seed_of, torch_generator


def test_a_key_names_one_stream():
    assert torch.equal(torch.rand(3, generator=torch_generator(1, 2)), torch.rand(3, generator=torch_generator(1, 2)))
    assert np.array_equal(numpy_generator(1, 2).random(3), numpy_generator(1, 2).random(3))


def test_no_two_keys_share_a_stream():
    keys = [(), (0,), (0, 0), (1, 2), (1, 2, 0), (2, 1), (1 << 32,), (0, 1), (1 << 32, 2), (0, 1, 2), (1, 0)]
    keys += [(seed, epoch) for seed in range(40) for epoch in range(3, 40)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert len({numpy_generator(*key).integers(1 << 62) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**63, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_seeds_are_checked(seed, error):
    with pytest.raises(error, match="seed="):
        check_seed(seed)


def test_checks_name_argument_value_and_what_is_allowed():
    assert check_int("k", np.int64(3), low=1) == 3
    with pytest.raises(ValueError, match=r"k=9: must be in \[1, 5\]"):
        check_int("k", 9, low=1, high=5)
    with pytest.raises(TypeError, match=r"k=1\.5: must be an int, got float"):
        check_int("k", 1.5, low=1)
    for value in (float("nan"), 0.0, 1.5):
        with pytest.raises(ValueError, match=r"share=.*: must be finite and in \(0, 1\]"):
            check_range("share", value, low=0, high=1, open_low=True)
    with pytest.raises(TypeError, match="share='x': must be a number"):
        check_range("share", "x")
    with pytest.raises(ValueError, match="mode='c': must be one of 'a', 'b'"):
        check_choice("mode", "c", ("a", "b"))
