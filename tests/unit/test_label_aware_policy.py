"""LabelAwarePolicy: names with ids, the released form, words and pictures."""

import json

import numpy as np
import pytest
import torch

import tamis
from tamis import DataInfo, PolicyError
from tamis.transforms.images.ops import IDENTITY, OPERATIONS
from tamis.transforms.label_aware.policy import LabelAwarePolicy

CLASSES = ("cat", "dog", "ship")


def policy(**values):
    triples = torch.arange(3 * 4 * 3, dtype=torch.uint8).reshape(3, 4, 3) % 16
    return LabelAwarePolicy(**{"classes": CLASSES, "triples": triples, **values})


def test_it_goes_through_files_with_its_class_names(tmp_path):
    rewards = torch.linspace(-0.5, 0.1, 3 * 816).reshape(3, 816)
    saved = policy(rewards=rewards, order="stored")
    saved.save(tmp_path)
    loaded = tamis.load_policy(tmp_path)
    assert isinstance(loaded, LabelAwarePolicy)
    assert loaded == saved
    assert loaded.classes == CLASSES
    assert torch.equal(loaded.triples, saved.triples)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"triples": torch.zeros(2, 4, 3, dtype=torch.uint8)}, r"\[3, N, 3\]"),
        ({"triples": torch.zeros(3, 4, 2, dtype=torch.uint8)}, "triples"),
        ({"triples": torch.zeros(3, 0, 3, dtype=torch.uint8)}, "at least one triple"),
        ({"triples": torch.full((3, 1, 3), 16, dtype=torch.uint8)}, r"0\.\.15"),
        ({"triples": torch.zeros(3, 4, 3)}, "uint8"),
        ({"classes": ("cat", "cat", "dog")}, "distinct"),
        ({"classes": ()}, "at least one"),
        ({"order": "sorted"}, "order"),
        ({"operations": ("Flip",)}, "operations"),
        ({"rewards": torch.zeros(3, 4)}, "rewards"),
        ({"rewards": torch.full((3, 816), float("nan"))}, "finite"),
        ({"data": DataInfo(classes=("a", "b", "c"))}, "data.classes"),
    ],
)
def test_wrong_values_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        policy(**values)


def test_another_label_set_is_refused():
    assert policy().check(data=DataInfo(n=5, classes=CLASSES)) == ("classes",)
    with pytest.raises(PolicyError, match="another order"):
        policy().check(data=DataInfo(classes=("dog", "cat", "ship")))
    with pytest.raises(PolicyError, match="lacks"):
        policy().check(data=DataInfo(classes=("cat", "dog", "truck")))


def test_the_released_form_is_read_as_it_is(tmp_path):
    released = {str(label): [["ShearX", "Invert", "Identity"], ["Cutout"] * 3] for label in (2, 0, 1)}
    file = tmp_path / "cifar3.json"
    file.write_text(json.dumps(released))
    for source in (file, released, {int(label): rows for label, rows in released.items()}):
        read = LabelAwarePolicy.from_authors(source, CLASSES)
        assert read.order == "stored"
        assert read.triples.tolist()[1] == [[0, 6, IDENTITY], [14, 14, 14]]


@pytest.mark.parametrize(
    ("released", "words"),
    [
        ({"0": [["Flip", "Invert", "Identity"]]}, "Flip"),
        ({"0": [["Invert", "Invert", "Identity"]]}, r"0\.\.2"),
        ({str(i): [["Invert"] * 3] * (i + 1) for i in range(3)}, "released policy"),
        ({str(i): [["Invert"] * 2] for i in range(3)}, "triples"),
        ({"x": []}, "released policy"),
    ],
)
def test_what_is_not_the_released_form_is_refused(released, words):
    with pytest.raises(PolicyError, match=words):
        LabelAwarePolicy.from_authors(released, CLASSES)


def test_an_unreadable_file_is_refused(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\x80\x04pickle")
    with pytest.raises(PolicyError, match="JSON"):
        LabelAwarePolicy.from_authors(tmp_path / "x.json", CLASSES)


def test_shares_words_and_difference():
    first = policy()
    counts = np.zeros((3, 16))
    for label, row in enumerate(first.triples.tolist()):
        for triple in row:
            for op in triple:
                counts[label, op] += 1
    assert np.allclose(first.shares(), counts / 12)
    text = first.summary()
    assert "4 triples" in text
    assert all(name in text for name in CLASSES)
    triples = first.triples.clone()
    triples[1, :, :] = OPERATIONS.index("Invert")
    changed = first.diff(policy(triples=triples))
    assert changed.startswith("dog: Invert +")
    assert "cat" not in changed
    assert "no operation" in first.diff(policy())
    with pytest.raises(PolicyError, match="classes"):
        first.diff(policy(classes=("a", "b", "c")))


def test_the_picture_shows_every_class_and_operation(tmp_path):
    figure = policy().plot(tmp_path / "label_aware.png")
    axes = figure.axes[0]
    assert (tmp_path / "label_aware.png").stat().st_size > 5000
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES)
    assert len(axes.containers) == 16
    assert len({(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in axes.containers}) == 16
    tops = [sum(bars[label].get_height() for bars in axes.containers) for label in range(3)]
    assert np.allclose(tops, 1)
    many = LabelAwarePolicy(classes=tuple(map(str, range(60))), triples=torch.zeros(60, 2, 3, dtype=torch.uint8))
    assert "20 classes more" in many.summary()
    many.plot()


def test_identity_only_is_known():
    assert policy(triples=torch.full((3, 2, 3), IDENTITY, dtype=torch.uint8)).changes_nothing
    assert not policy().changes_nothing
