"""search_label_aware on a base with a menu: planted vetoes, who may judge what, cost, resuming, refusals."""

import json
import sys

import numpy as np
import pytest
import torch

import tamis
from tamis import TamisError
from tamis.cli.main import main
from tamis.search import search_label_aware
from tamis.transforms import LabelAwareAugment, add_operation
from tamis.transforms.images.ops import KERNELS
from tests.unit.veto_toys import CLASSES, BySide, find, fit, sides


def column(policy, name):
    return policy.strengths[:, policy.names.index(name)].tolist()


def test_planted_vetoes_are_found_and_sure():
    policy = find()
    assert column(policy, "HorizontalFlip") == [0.0, 0.0, 1.0]
    assert column(policy, "VerticalFlip") == [1.0, 1.0, 1.0]
    assert (policy.doubts[:2, policy.names.index("HorizontalFlip")] < 1e-6).all()
    assert policy.judged.tolist() == [False] + [True] * 15
    passes = 11 * 2 + 2 + 2  # at two levels; AutoContrast and Equalize, and the flips, have no magnitude
    assert policy.search.budget == {"judges_trained": 0, "sample_forwards": 60 * (1 + passes)}
    assert policy.check(data=tamis.DataInfo(classes=CLASSES)) == ("classes",)
    assert find() == policy


def test_ten_images_are_too_few_for_what_is_not_plain():
    images, labels = sides()
    few = torch.cat([torch.nonzero(labels == 0).flatten()[:1], torch.nonzero(labels != 0).flatten()])
    policy = find(data=(images[few], labels[few]))
    assert column(policy, "HorizontalFlip") == [1.0, 0.0, 1.0]


def test_a_class_without_images_is_left_alone():
    images, labels = sides()
    with pytest.warns(UserWarning, match="no reward images of left"):
        policy = find(data=(images[labels != 0], labels[labels != 0]))
    assert column(policy, "HorizontalFlip") == [1.0, 0.0, 1.0]
    assert policy.images.tolist() == [0, 20, 20]


def test_several_models_judge_each_its_own_part_and_all_images_count():
    images, labels = sides()
    halves = [(images[at::2], labels[at::2]) for at in range(2)]
    both = find([BySide(), BySide()], halves)
    whole = find()
    assert torch.equal(both.strengths, whole.strengths)
    assert torch.allclose(both.harms[:, 14:], whole.harms[:, 14:], atol=1e-6)
    assert both.images.tolist() == [20, 20, 20]
    with pytest.raises(ValueError, match="1 parts for 2 models"):
        find([BySide(), BySide()], halves[:1])


def test_a_judge_was_never_trained_with_what_it_judges():
    seen = []

    def spying(augment, fold, share):
        drawn = {KERNELS[step.op] for i in range(3000) for step in augment._draw(i % 3, None, 0)}
        seen.append((fold, share, drawn))
        return BySide()

    policy = find([BySide(), BySide()], [sides(), sides(seed=1)], trained_with=["randaugment", "flip"], fit=spying)
    assert policy.judged.tolist() == [False] + [True] * 15
    assert [row[0] for row in seen] == [0, 1, 0, 1]
    assert {share for _, share, _ in seen} == {0.5}, "two judges for each of two folds of half the images: one training"
    without_geometry, without_colour = seen[0][2], seen[2][2]
    assert {"Brightness", "Solarize", "Posterize"} <= without_geometry
    assert not without_geometry & {"Rotate", "ShearX", "TranslateX", "HorizontalFlip"}
    assert {"Rotate", "ShearX", "TranslateX"} <= without_colour
    assert not without_colour & {"Brightness", "Solarize", "Equalize", "HorizontalFlip"}
    assert column(policy, "HorizontalFlip") == [0.0, 0.0, 1.0]
    assert policy.search.budget["judges_trained"] == 4
    cheap = find(trained_with="geometry", fit=spying, trainings=0.3)
    assert seen[-1][1] == pytest.approx(0.3)
    assert cheap.judged[1:].all()


def darker(image, strength):
    """Black at more than 0.9 of the way; on tensors, which is what a search uses."""
    return torch.zeros_like(image) if strength > 0.9 else image


def test_a_class_that_bears_an_operation_mildly_gets_it_mildly():
    add_operation("TestDark", darker, low=0.0, high=1.0)
    policy = find(add=["TestDark"], levels=(1 / 3, 2 / 3, 1))
    assert column(policy, "TestDark")[:2] == [pytest.approx(2 / 3)] * 2, "black at its full magnitude only"
    assert column(policy, "TestDark")[2] == 1.0, "what is black has no brighter half: both"
    augment = LabelAwareAugment(policy)
    values = [step.value for i in range(2000) for step in augment._draw(0, i, 0) if KERNELS[step.op] == "TestDark"]
    assert 0.6 < max(values) <= 2 / 3 + 1e-6


def test_an_interrupted_search_goes_on_and_trains_no_judge_twice(tmp_path):
    calls = []

    def failing(augment, fold, share):
        calls.append(fold)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return BySide()

    with pytest.raises(KeyboardInterrupt):
        find(fit=failing, out=tmp_path)
    policy = find(fit=failing, out=tmp_path)
    assert len(calls) == 3
    assert policy == find(fit=fit)
    assert tamis.load_policy(tmp_path) == policy
    assert find(fit=failing, out=tmp_path) == policy
    assert len(calls) == 3
    with pytest.raises(TamisError, match="seed differ"):
        find(fit=fit, out=tmp_path, seed=1)
    stricter = find(fit=failing, out=tmp_path, margin=0.99)
    assert len(calls) == 3, "judgements are weighed anew, nothing is trained"
    assert column(stricter, "HorizontalFlip") == [1.0, 1.0, 1.0]
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["trial"] for line in lines[1:]] == [0, 1, 2]


def test_flips_with_a_chance_of_their_own():
    policy = find(add={"HorizontalFlip": 0.5})
    assert column(policy, "HorizontalFlip") == [0.0, 0.0, 1.0]
    assert policy.chances == (0.5,)
    assert "chance 0.5" in policy.summary()
    augment = LabelAwareAugment(policy)
    shares = [
        np.mean([KERNELS[augment._draw(y, None, 0)[0].op] == "HorizontalFlip" for _ in range(400)]) for y in (0, 2)
    ]
    assert shares[0] == 0
    assert abs(shares[1] - 0.5) < 0.1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"trained_with": None}, ValueError, "trained_with='randaugment'"),
        ({"trained_with": "flip"}, ValueError, "HorizontalFlip cannot be judged"),
        ({"trained_with": ["HorizontalFlip", "geometry"]}, ValueError, "give fit="),
        ({"trained_with": "RandomResizedCrop"}, ValueError, "'geometry' for RandomResizedCrop"),
        ({"add": ["Mirror"]}, ValueError, "add_operation"),
        ({"add": ["Rotate"]}, ValueError, "already"),
        ({"base": "autoaugment"}, ValueError, "trivialaugment"),
        ({"base": "triples"}, ValueError, "trained_with: is no setting of base='triples'"),
        ({"base": "randaugment", "alpha": 1.0}, ValueError, "alpha: is no setting of base='randaugment'"),
        ({"levels": (1.0, 0.5)}, ValueError, "levels"),
        ({"margin": 1.0}, ValueError, "margin"),
        ({"false_discovery": 0.0}, ValueError, "false_discovery"),
        ({"trainings": 0}, ValueError, "trainings"),
        ({"fit": lambda *args: 3, "trained_with": "randaugment"}, TamisError, "trained nn.Module"),
        ({"classes": 3}, TypeError, "names in label order"),
    ],
)
def test_wrong_input_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        find(**options)


def test_a_preparation_that_does_not_fit_is_told():
    with pytest.warns(UserWarning, match="give prepare="):
        find(prepare=lambda images: 0.0 * images.float())


def test_settings_of_triples_alone_mean_triples_for_now():
    with pytest.warns(FutureWarning, match="base='triples'"):
        policy = search_label_aware(BySide(), sides(), classes=CLASSES, iterations=12, warmup=10, triples=4)
    assert policy.kind == "label_aware"


def test_it_is_searched_from_the_shell(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = [
        'model = "tests.unit.veto_toys:BySide"', 'val_data = "tests.unit.veto_toys:sides"',
        'classes = ["left", "right", "both"]', 'trained_with = "randaugment"', 'add = ["HorizontalFlip"]',
    ]  # fmt: skip
    (tmp_path / "search.toml").write_text("[search]\n" + "\n".join(lines))
    assert main(["search", "label_aware", "--config", str(tmp_path / "search.toml"), "--out", str(tmp_path / "f")]) == 0
    assert "never HorizontalFlip" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "f"), "--plot", str(tmp_path / "f.png")]) == 0
