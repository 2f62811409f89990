"""The 16 operations: bit-equal to PIL and torchvision one after the other, alone, merged and in batches."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms.v2 import RandAugment
from torchvision.transforms.v2 import functional as F

from tamis.core.rng import numpy_generator
from tamis.transforms.images.apply import apply_operations
from tamis.transforms.images.ops import (
    CODES,
    IDENTITY,
    OPERATIONS,
    RANGES,
    Drawn,
    cutout_box,
    draw,
    magnitude,
)
from tamis.transforms.images.tensor import apply_batch

SIZES = [(1, 1), (2, 2), (3, 5), (16, 16), (33, 20), (80, 70)]


def picture(size, mode="RGB", seed=0):
    """Smooth parts, a flat channel, and noise, so that statistics and ties occur."""
    rng = numpy_generator(seed, *size)
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    smooth = (x * 7 + y * 3) % 256
    noise = rng.integers(0, 256, (height, width))
    flat = np.full((height, width), 90)
    array = np.stack([smooth, noise, flat if seed % 2 else noise // 3 + 40], axis=-1).astype(np.uint8)
    return Image.fromarray(array if mode == "RGB" else array[..., 1].copy())


def tensor(image):
    return F.pil_to_tensor(image)


# torchvision's own dispatch, as its AutoAugment classes call PIL and tensor kernels, is the oracle
ORACLE = RandAugment()


def by_torchvision(image, op, code):
    name, value = OPERATIONS[op], magnitude(op, code)
    if name in ("Contrast", "Color", "Brightness", "Sharpness"):
        value -= 1.0
    if name.startswith("Translate"):
        width, height = image.size if isinstance(image, Image.Image) else image.shape[:0:-1]
        value *= width if name == "TranslateX" else height
    if name == "Solarize":
        value /= 255.0
    return ORACLE._apply_image_or_video_transform(
        image, name, value, interpolation=ORACLE.interpolation, fill=ORACLE._fill
    )


def by_pil(image, op, code):
    name, value = OPERATIONS[op], magnitude(op, code)
    if name in ("Contrast", "Color", "Brightness", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(value)
    if name in ("Solarize", "Posterize"):
        return getattr(ImageOps, name.lower())(image, int(value) if name == "Posterize" else value)
    if name in ("AutoContrast", "Equalize", "Invert"):
        return getattr(ImageOps, name.lower())(image)
    return by_torchvision(image, op, code)


def cutout_by_loops(array, operation):
    box = cutout_box(operation, array.shape[1], array.shape[0])
    out = array.copy()
    colour = (125, 123, 114) if array.ndim == 3 else 255
    if box is not None:
        for row in range(box[1], box[3]):
            for column in range(box[0], box[2]):
                out[row, column] = colour
    return out


def one_by_one(image, drawn):
    for operation in drawn:
        if OPERATIONS[operation.op] == "Cutout":
            image = Image.fromarray(cutout_by_loops(np.asarray(image), operation))
        else:
            image = by_pil(image, operation.op, operation.code)
    return image


@pytest.mark.parametrize("op", range(15), ids=OPERATIONS[:15])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_each_operation_is_pils_own(op, mode):
    for size, code in itertools.product(SIZES, range(CODES) if op in range(5) else range(0, CODES, 2)):
        image = picture(size, mode)
        drawn = [Drawn(op, code, 0.3, 0.9)]
        got = apply_operations(image, drawn)
        assert (got.mode, got.size) == (image.mode, image.size)
        assert got.tobytes() == one_by_one(image, drawn).tobytes(), (size, code)


@pytest.mark.parametrize("op", range(14), ids=OPERATIONS[:14])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_each_operation_on_tensors_is_torchvisions_own(op, mode):
    for size, code in itertools.product(SIZES, range(CODES) if op in range(5) else range(0, CODES, 2)):
        image = tensor(picture(size, mode))
        before = image.clone()
        got = apply_operations(image, [Drawn(op, code)])
        assert torch.equal(got, by_torchvision(image, op, code)), (size, code)
        assert torch.equal(image, before), "the input must stay as it was"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_cutout_on_tensors_paints_the_same_square(mode):
    op = OPERATIONS.index("Cutout")
    for size, code, x in itertools.product(SIZES, range(0, CODES, 4), (0.0, 0.5, 0.999)):
        image = picture(size, mode)
        drawn = [Drawn(op, code, x, 1 - x - 1e-9 if x else 0.2)]
        want = torch.from_numpy(np.asarray(apply_operations(image, drawn)).copy())
        assert torch.equal(
            apply_operations(tensor(image), drawn), want.unsqueeze(0) if mode == "L" else want.permute(2, 0, 1)
        )


def random_triple(rng):
    return [Drawn(int(rng.integers(16)), int(rng.integers(CODES)), rng.random(), rng.random()) for _ in range(3)]


@pytest.mark.parametrize("size", [(32, 32), (70, 81)])
def test_a_triple_equals_its_operations_one_by_one(size):
    rng = numpy_generator(1, *size)
    image = picture(size, seed=1)
    for _ in range(400):
        drawn = random_triple(rng)
        assert apply_operations(image, drawn).tobytes() == one_by_one(image, drawn).tobytes(), drawn


def test_a_batch_equals_its_images_one_by_one():
    rng = numpy_generator(2)
    images = torch.stack([tensor(picture((24, 20), seed=seed)) for seed in range(64)])
    drawn = [random_triple(rng) for _ in images]
    batch = apply_batch(images, drawn)
    for image, triple, got in zip(images, drawn, batch, strict=True):
        want = image
        for operation in triple:
            want = apply_operations(want, [operation])
        assert torch.equal(got, want)
    assert apply_batch(images[:0], []).shape == (0, 3, 20, 24)


def test_fast_mode_differs_only_where_geometric_operations_meet():
    rng, image = numpy_generator(3), picture((32, 32), seed=4)
    geometric = range(5)
    changed = shares = 0
    for _ in range(300):
        drawn = random_triple(rng)
        exact, fast = (np.asarray(apply_operations(image, drawn, fast=fast)) for fast in (False, True))
        meets = any(a.op in geometric and b.op in geometric for a, b in itertools.pairwise(drawn)) or (
            drawn[0].op in geometric and drawn[2].op in geometric and drawn[1].op == IDENTITY
        )
        if not meets:
            assert np.array_equal(exact, fast), drawn
        else:
            changed += 1
            shares += (exact == fast).all(-1).mean()
    assert changed > 20
    assert 0.5 < shares / changed < 1.0


def test_fast_mode_composes_in_the_right_order():
    turn, shift = Drawn(OPERATIONS.index("Rotate"), 2), Drawn(OPERATIONS.index("TranslateX"), 4)
    image = picture((64, 64), seed=4)
    for drawn in ([turn, shift], [shift, turn]):
        exact, fast = (np.asarray(apply_operations(image, drawn, fast=fast)).astype(int) for fast in (False, True))
        inside = (exact.sum(-1) > 0) & (fast.sum(-1) > 0)
        assert (exact == fast).all(-1)[inside].mean() > 0.7


def test_magnitudes_lie_in_the_official_ranges():
    for op, name in enumerate(OPERATIONS):
        values = {magnitude(op, code) for code in range(CODES)}
        if name not in RANGES:
            assert values == {0.0}
            continue
        low, high = RANGES[name]
        assert all(min(low, -high) <= value <= max(high, -low) for value in values)
        mirrored = {magnitude(op, code) for code in range(1, CODES, 2)} != {
            magnitude(op, c) for c in range(0, CODES, 2)
        }
        assert mirrored == (low < 0)


def test_identity_returns_the_same_bits():
    image = picture((9, 7))
    drawn = [Drawn(IDENTITY, 3)] * 3
    assert apply_operations(image, drawn) is image
    assert torch.equal(apply_operations(tensor(image), drawn), tensor(image))


def test_draws_are_a_pure_function_of_the_key_and_fair():
    triples = np.arange(12).reshape(4, 3)
    assert draw(triples, (1, 2, 3)) == draw(triples, (1, 2, 3))
    assert draw(triples, (1, 2, 3)) != draw(triples, (1, 2, 4))
    drawn = [draw(triples, (0, i)) for i in range(4000)]
    rows = np.bincount([row[0].op // 3 for row in drawn], minlength=4)
    codes = np.bincount([d.code for row in drawn for d in row], minlength=CODES)
    assert rows.min() > 880
    assert codes.min() > 500
    assert len(codes) == CODES
    assert all([d.op for d in row] in triples.tolist() for row in drawn)
    orders = {tuple(d.op for d in draw(triples[:1], (0, i), shuffle=True)) for i in range(200)}
    assert len(orders) == 6
    places = np.array([(d.x, d.y) for row in drawn for d in row])
    assert np.abs(places.mean(0) - 0.5).max() < 0.02


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (Image.new("RGBA", (4, 4)), ValueError, "convert"),
        (Image.new("P", (4, 4)), ValueError, "convert"),
        (Image.new("F", (4, 4)), ValueError, "convert"),
        (torch.zeros(3, 4, 4), TypeError, "ToDtype"),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), ValueError, "alpha"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), ValueError, "batch"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), ValueError, "empty"),
        (np.zeros((4, 4, 3), np.uint8), TypeError, "ndarray"),
        ("cat.png", TypeError, "str"),
    ],
)  # fmt: skip
def test_images_without_a_meaning_are_refused(image, error, words):
    with pytest.raises(error, match=words):
        apply_operations(image, [Drawn(0, 0)])


def test_no_warnings_on_flat_images():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (0, 255):
            flat = Image.new("RGB", (5, 5), (value, value, value))
            for op in range(16):
                apply_operations(flat, [Drawn(op, 4)])
                apply_operations(tensor(flat), [Drawn(op, 4)])
