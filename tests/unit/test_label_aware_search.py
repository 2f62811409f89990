"""search_label_aware on a planted task, and what every search must keep: rewards, resume, budgets, refusals."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import tamis
from tamis import NoEffectWarning, TamisError
from tamis.cli.main import main
from tamis.search import carry_policy, search_label_aware
from tamis.search.label_aware.reward import RewardImages, scaled
from tamis.search.label_aware.triples import SPACE, build_policy
from tamis.transforms import apply_operations
from tamis.transforms.images.ops import OPERATIONS, draw
from tests.contract.label_aware_factories import Pictures
from tests.reference import label_aware as reference
from tests.unit.label_aware_toys import CLASSES, ByEye, pictures, search

INVERT, IDENTITY = OPERATIONS.index("Invert"), OPERATIONS.index("Identity")


def test_the_planted_labels_are_spared_what_harms_them():
    policy = search(iterations=120, warmup=60, triples=40, reward="probability")
    expected = policy.rewards.numpy()
    alone = (SPACE == INVERT).sum(1) == 1
    never = (SPACE == INVERT).sum(1) == 0
    harm = expected[:, never].mean(1) - expected[:, alone].mean(1)
    assert harm[0] > harm[2] + 0.03
    assert harm[1] > harm[2] + 0.03
    assert policy.shares()[:2, INVERT].max() < policy.shares()[2, INVERT]
    assert policy.search.budget == {"trials": 120, "sample_forwards": 60 * 121}
    assert policy.check(data=tamis.DataInfo(classes=CLASSES)) == ("classes",)


def test_rewards_equal_the_slow_reference():
    images, labels = pictures(7)
    model = ByEye()
    judge = RewardImages(model, (images, labels), np.arange(3), batch_size=4, seed=9)
    triples = np.array([[INVERT, 4, IDENTITY], [8, 12, 2], [10, 10, 14]])
    got = judge.rewards(5, triples)
    clean, augmented = [], []
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        drawn = draw(triples[label][None], (9, 5, row, 0), shuffle=True)
        for guesses, picture in ((clean, image), (augmented, apply_operations(image, drawn))):
            guesses.append(int(model(scaled(picture[None])).argmax()))
    for label in range(3):
        assert got[label] == pytest.approx(reference.reward(labels.tolist(), clean, augmented, label))
    assert got.min() < 0
    identity = np.full((3, 3), IDENTITY)
    assert np.array_equal(judge.rewards(6, identity), np.zeros(3)), "pairing: no change, no reward, whatever the draw"


def test_batches_and_sums_do_not_depend_on_the_batch_size():
    triples = np.array([[INVERT, 4, IDENTITY], [8, 12, 2], [10, 10, 14]])
    found = [RewardImages(ByEye(), pictures(), np.arange(3), batch_size=size).rewards(1, triples) for size in (7, 60)]
    assert np.array_equal(*found)


def test_pil_data_sets_are_read_with_their_own_class_names():
    from tests.contract.label_aware_factories import CLASSES as NAMES

    with pytest.warns(UserWarning, match="no more than chance"):  # noise
        policy = search(data=Pictures(), classes=None, iterations=6, warmup=4, triples=2, refit_every=2)
    assert policy.classes == NAMES


@pytest.mark.parametrize(
    "options", [{"parents": "best"}, {"refit_every": 1}, {"repeats": 2}, {"candidates": (40, 0, 0)}]
)
def test_the_documented_options_search_too(options):
    policy = search(iterations=24, **options)
    assert policy.triples.shape == (3, 12, 3)
    assert policy.search.budget["sample_forwards"] == 60 * (24 * options.get("repeats", 1) + 1)


def test_the_same_seed_gives_the_same_policy_and_another_seed_another():
    first, second, other = (search(seed=seed) for seed in (3, 3, 4))
    assert first == second
    assert not torch.equal(first.triples, other.triples)


def test_one_label_is_the_same_as_no_labels():
    images, labels = pictures()
    data = (images, torch.zeros_like(labels))
    with_labels, without = (
        search(data=data, classes=("thing",), label_aware=flag, iterations=24) for flag in (True, False)
    )
    assert torch.equal(with_labels.triples, without.triples)
    assert torch.equal(with_labels.rewards, without.rewards)


def test_without_labels_all_classes_share_their_triples():
    policy = search(label_aware=False, iterations=24)
    assert torch.equal(policy.triples[0], policy.triples[1])
    assert torch.equal(policy.triples[0], policy.triples[2])


def test_the_model_and_global_generators_stay_as_they_were():
    model = nn.Sequential(ByEye(), nn.Dropout(0.5), nn.BatchNorm1d(3))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    search(model, iterations=22)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_a_finished_search_is_read_back_and_extended(tmp_path):
    first = search(out=tmp_path)
    assert tamis.load_policy(tmp_path) == first
    lines = (tmp_path / "journal.jsonl").read_bytes()
    assert search(out=tmp_path) == first
    assert (tmp_path / "journal.jsonl").read_bytes() == lines
    longer = search(out=tmp_path, iterations=50)
    assert longer == search(iterations=50)
    with pytest.raises(TamisError, match="reward"):
        search(out=tmp_path, reward="probability")
    with pytest.raises(TamisError, match="clean"), pytest.warns(UserWarning, match="give prepare="):
        search(out=tmp_path, prepare=lambda images: 0.0 * images.float())


def test_a_killed_search_goes_on_to_the_same_policy(tmp_path):
    journal = tmp_path / "journal.jsonl"
    command = [sys.executable, "-m", "tests.unit.label_aware_toys", str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 26) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = journal.read_bytes().count(b"\n") - 1
    assert 24 < done < 40
    assert not (tmp_path / "policy.json").exists()
    assert search(out=tmp_path) == search()


def test_a_label_without_reward_images_gets_the_mean_of_the_others():
    images, labels = pictures()
    keep = labels != 1
    with pytest.warns(UserWarning, match="no reward images of dark"):
        policy = search(data=(images[keep], labels[keep]), shrinkage=0.0)
    rewards = policy.rewards
    assert torch.allclose(rewards[1], (rewards[0] + rewards[2]) / 2, atol=1e-6)


def test_shrinkage_draws_labels_together():
    apart, together = (search(shrinkage=value).rewards for value in (0.0, 1e6))
    assert apart.std(0).mean() > 0
    assert together.std(0).max() < 1e-4


class Constant(nn.Module):
    def forward(self, images):
        return torch.eye(3)[torch.zeros(len(images), dtype=torch.long)]


def test_a_model_that_sees_nothing_is_told():
    with pytest.warns(NoEffectWarning, match="no triple changed"), pytest.warns(UserWarning, match="33%"):
        search(Constant(), iterations=22)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"iterations": 5}, ValueError, "lower warmup too"),
        ({"classes": 43}, TypeError, r"\[str\(i\) for i in range\(43\)\]"),
        ({"classes": "cat"}, TypeError, "names in label order"),
        ({"data": DataLoader([(torch.zeros(3, 4, 4), 0)])}, TypeError, "loader.dataset"),
        ({"data": (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2))}, TypeError, "torch.from_numpy"),
        ({"data": iter([])}, TypeError, "map-style"),
        ({"warmup": 0}, ValueError, "warmup"),
        ({"triples": 817}, ValueError, "triples"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"reward": "loss"}, ValueError, "probability"),
        ({"parents": "all"}, ValueError, "best"),
        ({"candidates": (1, 2, 3)}, ValueError, "refit_every"),
        ({"classes": None}, TamisError, "class names"),
        ({"candidates": (np.int64(1), 2, 3)}, ValueError, r"candidates=\(1, 2, 3\)"),
        ({"candidates": (10, -1, 3)}, ValueError, "candidates=-1: must be >= 0"),
        ({"classes": ("a", "b")}, ValueError, r"labels 0..2: must lie in 0\.\.1"),
        ({"data": (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.rand(2, 3))}, ValueError, "soft"),
        ({"data": (torch.zeros(2, 3, 4, 4), torch.zeros(2).long())}, TypeError, "uint8"),
        ({"data": [(torch.zeros(3, 4, s, dtype=torch.uint8), 0) for s in (4, 5)]}, ValueError, "one size"),
        ({"data": [(torch.zeros(3, 4, 4, dtype=torch.uint8), torch.rand(3))]}, TypeError, "soft"),
        (
            {"data": [(torch.zeros(3, 4, 4, dtype=torch.uint8), np.float64(0.5))]},
            TypeError,
            r"val_data\[0\]: label 0.5",
        ),
        ({"data": [(torch.zeros(4, 4, 4, dtype=torch.uint8), 0)]}, ValueError, "alpha"),
        ({"data": []}, ValueError, "not 0"),
    ],
)
def test_wrong_input_is_refused(options, error, words):
    given = {"base": "triples", "classes": CLASSES, "data": pictures(), **options}
    with pytest.raises(error, match=words) as caught:
        search_label_aware(ByEye(), given.pop("data"), **given)
    assert "np." not in str(caught.value)


def test_it_is_searched_from_the_shell(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = [
        'model = "tests.unit.label_aware_toys:ByEye"',
        'val_data = "tests.unit.label_aware_toys:pictures"',
        'classes = ["bright", "dark", "busy"]', 'base = "triples"',
        "iterations = 12", "warmup = 10", "triples = 4",
    ]  # fmt: skip
    (tmp_path / "search.toml").write_text("[search]\n" + "\n".join(lines))
    command = ["search", "label_aware", "--config", str(tmp_path / "search.toml"), "--out", str(tmp_path / "found")]
    assert main(command) == 0
    assert "4 triples of operations for each of 3 classes" in capsys.readouterr().out
    assert tamis.load_policy(tmp_path / "found").classes == CLASSES
    assert main(["check", str(tmp_path / "found"), "--classes", "bright,dark,busy"]) == 0


def test_a_model_without_logits_is_refused():
    with pytest.raises(TamisError, match="logits"):
        search(nn.Flatten(), data=(pictures()[0][:, :1, :1, :1].contiguous(), pictures()[1]))


def test_a_preparation_that_breaks_the_model_is_refused():
    with pytest.raises(TamisError, match=r"NaN or infinite; give prepare="):
        search(prepare=lambda images: images.float() * float("nan"))


def test_stage_two_can_be_done_again():
    policy = search()
    assert torch.equal(build_policy(policy, triples=12).triples, policy.triples)
    assert build_policy(policy, triples=30, alpha=0.0).triples.shape == (3, 30, 3)
    with pytest.raises(ValueError, match="rewards"):
        build_policy(tamis.Policy.load("tests/golden/label_aware/1").from_authors({0: [["Invert"] * 3]}, ("a",)))


def test_new_classes_get_what_suits_the_classes_like_them():
    policy = search()
    prototypes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    carried = carry_policy(policy, prototypes, torch.tensor([[0.1, 9.9], [5.0, 0.0]]), ("loud", "grey"), triples=12)
    assert carried.classes == ("loud", "grey")
    assert (carried.rewards[0] - policy.rewards[2]).abs().max() < (
        policy.rewards[0] - policy.rewards[2]
    ).abs().max() / 2
    middle = (policy.rewards[0] + policy.rewards[1]) / 2
    assert (carried.rewards[1] - middle).abs().mean() < (policy.rewards[2] - middle).abs().mean()
    with pytest.raises(ValueError, match="prototypes"):
        carry_policy(policy, prototypes[:2], prototypes, ("a", "b", "c"))
