"""Menus: torchvision's own magnitudes, draws that are a function of their key, operations that users add."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tamis.core.rng import numpy_generator
from tamis.transforms.images.apply import apply_operations
from tamis.transforms.images.menu import BASES, add_operation, make_menu
from tamis.transforms.images.ops import KERNELS, Drawn
from tamis.transforms.images.tensor import apply_batch
from tests.unit.test_ops import picture, tensor

THEIRS = {"randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("kind", [lambda image: image, tensor], ids=["PIL", "tensor"])
def test_every_operation_at_every_step_is_torchvisions(base, kind):
    theirs = THEIRS[base]
    assert [entry.name for entry in BASES[base]] == list(theirs._AUGMENTATION_SPACE)
    image = kind(picture((45, 37)))
    for entry in BASES[base]:
        magnitudes, signed = theirs._AUGMENTATION_SPACE[entry.name]
        values = magnitudes(31, 37, 45)
        for step in (0, 1, 5, 9, 10, 17, 30):
            for mirror in (False, True) if signed else (False,):
                value = 0.0 if values is None else float(values[step]) * (-1 if mirror else 1)
                want = theirs._apply_image_or_video_transform(
                    image, entry.name, value, interpolation=theirs.interpolation, fill=theirs._fill
                )
                got = apply_operations(image, [Drawn(entry.op, 0, value=entry.value(step, mirror))])
                assert np.array_equal(np.asarray(got), np.asarray(want)), (entry.name, step, mirror)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("HorizontalFlip", F.horizontal_flip),
        ("VerticalFlip", F.vertical_flip),
        ("HalfTurn", lambda image: F.rotate(image, 180)),
    ],
)
def test_flips_are_torchvisions(name, theirs):
    drawn = [Drawn(KERNELS.index(name), 0)]
    for mode in ("RGB", "L"):
        image = picture((9, 6), mode)
        assert apply_operations(image, drawn).tobytes() == theirs(image).tobytes()
        assert torch.equal(apply_operations(tensor(image), drawn), theirs(tensor(image)))


def test_all_operations_are_drawn_alike_with_the_bases_magnitude():
    menu, ones = make_menu("randaugment", ["HorizontalFlip"], magnitude=9), [1.0] * 15
    drawn = [step for i in range(6000) for step in menu.draw(ones, (0, 0, i, 0))]
    counts = np.bincount([step.op for step in drawn], minlength=len(KERNELS))
    own = [entry.op for entry in menu.entries]
    assert counts.sum() == counts[own].sum() == 12000
    assert np.abs(counts[own] - 800).max() < 4.5 * math.sqrt(800)
    turns = [step.value for step in drawn if KERNELS[step.op] == "Rotate"]
    assert {round(value, 4) for value in turns} == {9.0, -9.0}
    assert abs(np.mean(np.sign(turns))) < 0.15
    assert menu.draw(ones, (0, 0, 5, 0)) == menu.draw(ones, (0, 0, 5, 0)) != menu.draw(ones, (0, 1, 5, 0))


def test_trivialaugment_draws_one_operation_of_any_magnitude():
    menu = make_menu("trivialaugment")
    drawn = [menu.draw([1.0] * 14, (1, 0, i, 0)) for i in range(4000)]
    assert {len(row) for row in drawn} == {1}
    turns = [abs(row[0].value) for row in drawn if KERNELS[row[0].op] == "Rotate"]
    assert set(np.round(np.array(turns) / 4.5).astype(int)) == set(range(31))


def test_strength_bounds_the_magnitude_and_zero_is_never():
    menu = make_menu("randaugment", {"VerticalFlip": 0.5}, magnitude=9)
    strengths = [1.0] * 15
    strengths[5], strengths[1], strengths[14] = 1 / 3, 0.0, 0.0
    drawn = [step for i in range(2000) for step in menu.draw(strengths, (i,))]
    named = [KERNELS[step.op] for step in drawn]
    assert {round(step.value, 4) for step in drawn if KERNELS[step.op] == "Rotate"} == {3.0, -3.0}
    assert "ShearX" not in named
    assert "VerticalFlip" not in named
    assert len(drawn) == 6000, "as many for every key, so that a batch can be applied in one go"


def test_a_chance_is_kept_beside_the_menus_own_draws():
    menu = make_menu("randaugment", {"HorizontalFlip": 0.5})
    rows = [menu.draw([1.0] * 15, (7, i)) for i in range(4000)]
    assert abs(np.mean([KERNELS[row[0].op] == "HorizontalFlip" for row in rows]) - 0.5) < 0.04
    assert not any(KERNELS[step.op] == "HorizontalFlip" for row in rows for step in row[1:])


def blur(image, sigma):
    return F.gaussian_blur(image, [3, 3], [sigma, sigma])


def test_any_torchvision_transform_is_added_by_one_line():
    add_operation("TestBlur", blur, low=0.1, high=2.0)
    menu = make_menu("randaugment", {"TestBlur": 1.0})
    image = picture((20, 16))
    drawn = menu.draw([1.0] * 15, (3,))
    assert KERNELS[drawn[0].op] == "TestBlur"
    assert 0.1 <= drawn[0].value <= 2.0
    want = F.gaussian_blur(image, [3, 3], [drawn[0].value] * 2)
    assert apply_operations(image, drawn[:1]).tobytes() == want.tobytes()
    images = torch.stack([tensor(picture((20, 16), seed=seed)) for seed in range(6)])
    rows = [menu.draw([1.0] * 15, (i // 2,)) for i in range(6)]
    batch = apply_batch(images, rows)
    for one, row, got in zip(images, rows, batch, strict=True):
        assert torch.equal(got, apply_operations(one, row))
    rng = numpy_generator(0)
    assert rng is not None
    again = add_operation("TestBlur", blur, low=0.5, high=1.0)
    assert again.op == drawn[0].op
    with pytest.raises(ValueError, match="tamis' own"):
        add_operation("Rotate", blur)
    with pytest.raises(TypeError, match="function"):
        add_operation("TestOther", 3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"base": "autoaugment"}, "randaugment"),
        ({"add": ["Mirror"]}, "add_operation"),
        ({"add": ["Rotate"]}, "already"),
        ({"add": {"HorizontalFlip": 1.5}}, "HorizontalFlip"),
        ({"operations": 0}, "operations"),
        ({"magnitude": 31}, "magnitude"),
    ],
)
def test_menus_that_cannot_be_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        make_menu(**{"base": "randaugment", **values})
