"""MenuPolicy: fields, files, words and pictures, also for a thousand classes; LabelAwareAugment with it."""

import re
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

import tamis
from tamis import DataInfo, NoEffectWarning, PolicyError
from tamis.core.rng import numpy_generator
from tamis.transforms import LabelAwareAugment, MenuPolicy, add_operation
from tamis.transforms.images import ops
from tamis.transforms.images.menu import _MORE
from tests.contract.label_aware_factories import CLASSES, make_menu_policy, make_policy
from tests.unit.test_ops import picture


def test_it_goes_through_files_with_its_menu(tmp_path):
    saved = make_menu_policy(add={"HorizontalFlip": 0.5})
    saved.save(tmp_path)
    loaded = tamis.load_policy(tmp_path)
    assert isinstance(loaded, MenuPolicy)
    assert loaded == saved
    assert loaded.names[-1] == "HorizontalFlip"
    assert loaded.menu() == saved.menu()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"base": "autoaugment"}, "randaugment"),
        ({"classes": ("a", "a", "b")}, "distinct"),
        ({"added": ("HorizontalFlip",)}, "chances"),
        ({"strengths": torch.ones(3, 13)}, r"\[3, 14\]"),
        ({"strengths": torch.ones(3, 14, dtype=torch.float64)}, "float32"),
        ({"strengths": torch.full((3, 14), 1.5)}, r"\[0, 1\]"),
        ({"strengths": torch.zeros(3, 14)}, "Identity"),
        ({"harms": torch.zeros(2, 14)}, "harms"),
        ({"images": torch.zeros(2, dtype=torch.int64)}, "images"),
        ({"data": DataInfo(classes=("a", "b", "c"))}, "data.classes"),
    ],
)
def test_wrong_values_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        MenuPolicy(**{"classes": CLASSES, "base": "randaugment", "strengths": torch.ones(3, 14), **values})


def test_a_plain_menu_leaves_out_operations_and_groups():
    policy = MenuPolicy.plain(CLASSES, add=["HalfTurn"], without=["geometry", "Solarize"])
    left = {name for name, strength in zip(policy.names, policy.strengths[0].tolist(), strict=True) if strength}
    assert left == {"Identity", "Brightness", "Color", "Contrast", "Sharpness", "Posterize", "AutoContrast", "Equalize",
                    "HalfTurn"}  # fmt: skip
    with pytest.raises(ValueError, match="shape"):
        MenuPolicy.plain(CLASSES, without=["shape"])


def thousand():
    """A thousand classes, of which 60 lose something, a few of them more than others."""
    names = tuple(f"class {i}" for i in range(1000))
    policy = MenuPolicy.plain(names, add=["HorizontalFlip"])
    strengths, doubts = policy.strengths.clone(), torch.full((1000, 15), 0.8)
    strengths[100:160, 14], doubts[100:160, 14] = 0.0, 0.0001
    strengths[150, 5], strengths[151, 1] = 0.0, 1 / 3
    return MenuPolicy(classes=names, base="randaugment", strengths=strengths, doubts=doubts,
                      harms=torch.zeros(1000, 15), added=("HorizontalFlip",), chances=(0.0,))  # fmt: skip


def test_words_and_picture_can_be_read_for_a_thousand_classes(tmp_path):
    policy = thousand()
    text = policy.summary()
    assert len(text.splitlines()) < 50
    assert "61 of 15000 (class, operation) pairs are vetoed, 1 are milder; 940 classes get all" in text
    assert re.search(r"class 150: never Rotate \(sure 20 %\), never HorizontalFlip \(sure > 99.9 %\)", text)
    assert "ShearX up to 33%" in text
    assert "kept from 60 of 1000 classes" in text
    assert text.index("class 150:") < text.index("class 151:") < text.index("class 100:"), "the most special first"
    assert "... and 20 classes more" in text
    figure = policy.plot(tmp_path / "menu.png")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()][:2] == ["class 150", "class 151"]
    assert len(left.get_yticklabels()) == 40
    assert [label.get_text() for label in left.get_xticklabels()] == list(policy.names)
    assert "100" in {text.get_text() for text in left.texts}
    assert max(bar.get_width() for bar in right.patches) == 60
    assert (tmp_path / "menu.png").stat().st_size > 5000


def test_what_no_class_keeps_is_said_once_and_no_veto_is_said_too():
    none = MenuPolicy.plain(CLASSES)
    assert "no veto: every class gets the whole menu" in none.summary()
    never = MenuPolicy.plain(CLASSES, add=["Invert"], without=["Invert"])
    assert "Invert: kept from all classes" in never.summary()
    assert "cat:" not in never.summary()
    assert none.diff(MenuPolicy.plain(CLASSES, without=["Rotate"])).startswith("cat: Rotate 1 -> 0")
    assert "no class" in none.diff(none)
    with pytest.raises(PolicyError, match="same menu"):
        none.diff(never)


def test_no_class_gets_what_it_must_not():
    policy = MenuPolicy.plain(CLASSES, add={"HorizontalFlip": 1.0}, without=["geometry", "colour", "inversion"])
    strengths = policy.strengths.clone()
    strengths[1, -1] = 0.0
    policy = MenuPolicy(classes=CLASSES, base="randaugment", strengths=strengths, added=policy.added, chances=(1.0,))
    augment, image = LabelAwareAugment(policy), picture((8, 6))
    assert augment(image, "cat")[0].tobytes() == F.horizontal_flip(image).tobytes()
    assert augment(image, "dog")[0].tobytes() == image.tobytes()
    images = torch.stack([F.pil_to_tensor(image)] * 3)
    out, _ = augment.batch(images, torch.tensor([0, 1, 2]))
    assert torch.equal(out, torch.stack([images[0].flip(-1), images[1], images[2].flip(-1)]))


def test_updates_reach_it_and_other_menus_are_refused():
    augment = LabelAwareAugment(make_menu_policy())
    assert repr(augment) == "LabelAwareAugment(classes=3, operations=16, seed=0, mode=exact)"
    never = MenuPolicy.plain(CLASSES, add=["HorizontalFlip", "Invert"],
                             without=["geometry", "colour", "inversion", "flip"])  # fmt: skip
    with pytest.warns(NoEffectWarning, match="Identity"):
        augment.update(never)
    image = picture((8, 6))
    assert augment(image, 0)[0].tobytes() == image.tobytes()
    with pytest.raises(ValueError, match="its menu"):
        augment.update(MenuPolicy.plain(CLASSES))
    with pytest.raises(TypeError, match="MenuPolicy"):
        augment.update(make_policy())
    with pytest.raises(TypeError, match="LabelAwarePolicy"):
        LabelAwareAugment(make_policy()).update(never)


def test_batches_and_arrays_given_to_the_single_form_are_shown_the_way():
    augment = LabelAwareAugment(make_menu_policy())
    with pytest.raises(ValueError, match=r"use augment.batch\(images, labels\)"):
        augment(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"Image.fromarray"):
        augment(np.zeros((8, 8, 3), np.uint8), 0)


def half(image, strength):
    return F.adjust_brightness(image, 1 - strength)


def test_an_added_operation_travels_to_a_process_that_lacks_it():
    add_operation("TestTravel", half, low=0.1, high=0.5)
    policy = MenuPolicy.plain(CLASSES, add={"TestTravel": 1.0})
    augment = LabelAwareAugment(policy, seed=4)
    image = picture((8, 6))
    augment.set_epoch(0)
    want = [augment(image, 0, index=i)[0].tobytes() for i in range(5)]
    carried = bytes(ForkingPickler.dumps(augment))
    place = ops.KERNELS.index("TestTravel")
    del ops.ADDED[place], _MORE["TestTravel"]
    ops.KERNELS[place] = "something else"
    with pytest.raises(ValueError, match="add_operation"):
        LabelAwareAugment(policy)
    there = ForkingPickler.loads(carried)
    assert [there(image, 0, index=i)[0].tobytes() for i in range(5)] == want


def test_strengths_are_kept_over_many_draws():
    policy = make_menu_policy()
    augment, rng = LabelAwareAugment(policy), numpy_generator(1)
    for label in range(3):
        drawn = [step.op for _ in range(500) for step in augment._draw(label, int(rng.integers(1e6)), 0)]
        allowed = {entry.op for entry, s in zip(policy.menu().entries, policy.strengths[label], strict=True) if s > 0}
        assert set(drawn) == allowed
