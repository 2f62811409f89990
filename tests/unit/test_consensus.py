"""Cross-fitted losses and the trajectory of a training: they tell wrong labels, resume, refuse what they cannot use."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tamis.core.errors import TamisError
from tamis.core.rng import torch_generator
from tamis.features import FeatureTable, LossTrajectory, consensus_loss, sample_features

N, WRONG = 240, 60


def planted():
    """Three clusters; the labels of the first 60 samples are wrong."""
    generator = torch_generator(0)
    y = torch.randint(3, (N,), generator=generator)
    x = F.one_hot(y, 6) * 3.0 + torch.randn(N, 6, generator=generator)
    y[:WRONG] = (y[:WRONG] + 1) % 3
    return TensorDataset(x, y)


DATA = planted()
CALLS = []


def new_model(seed):
    model = nn.Linear(6, 3)
    generator = torch_generator(seed)
    for p in model.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=generator)
    return model


def train(model, indices, steps=40):
    x, y = (t[indices] for t in DATA.tensors)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def fit(indices, seed):
    CALLS.append((len(indices), seed))
    return train(new_model(seed), indices)


def auc(score):
    wrong = np.arange(N) < WRONG
    ranks = np.argsort(np.argsort(score)) + 1
    return (ranks[wrong].mean() - (WRONG + 1) / 2) / (N - WRONG)


def test_the_consensus_tells_wrong_labels_and_each_sample_is_judged_by_models_that_did_not_see_it():
    CALLS.clear()
    table = consensus_loss(DATA, fit, folds=3)
    assert table.column_names == ("out_of_fold_loss", "second_loss", "consensus_loss")
    assert [size for size, _ in CALLS[:3]] == [160] * 3
    assert all(abs(size - 96) < 20 for size, _ in CALLS[3:])  # the credible 60 % of two thirds
    assert len(CALLS) == len({seed for _, seed in CALLS}) == 6
    assert auc(table["consensus_loss"].numpy()) > 0.97
    assert table["consensus_loss"].min() > 0
    assert table["consensus_loss"].max() <= 1
    table.check(DATA)


def test_no_sample_is_in_the_fit_that_judges_it():
    folds = []

    def spy(indices, seed):
        folds.append(set(indices))
        return fit(indices, seed)

    losses = consensus_loss(DATA, spy, folds=4, rounds=1)["out_of_fold_loss"]
    assert all(sum(i not in fold for fold in folds) == 1 for i in range(N))
    held = [i for i in range(N) if i not in folds[0]]
    seeds = [seed for _, seed in CALLS[-4:]]
    model = train(new_model(seeds[0]), sorted(folds[0]))
    x, y = (t[held] for t in DATA.tensors)
    assert torch.allclose(losses[held].float(), F.cross_entropy(model(x), y, reduction="none"), atol=1e-5)


def test_the_second_round_keeps_rare_classes():
    x, y = DATA.tensors
    rare = torch.cat([torch.arange(WRONG, N)[y[WRONG:] != 2], torch.arange(WRONG, N)[y[WRONG:] == 2][:6]])
    data, seen = TensorDataset(x[rare], y[rare]), []

    def spy(indices, seed):
        seen.append(set(data.tensors[1][indices].tolist()))
        model = new_model(seed)
        for p in model.parameters():
            p.data *= 0  # knows the frequent classes only
        model.bias.data = torch.tensor([1.0, 1.0, -5.0]) + 0.01 * torch.rand(3, generator=torch_generator(seed))
        return model

    consensus_loss(data, spy, folds=2)
    assert seen[2:] == [{0, 1, 2}] * 2
    seen.clear()
    consensus_loss(data, spy, folds=2, per_class=False)
    assert 2 not in seen[2]


def test_other_columns_take_part_and_the_table_keeps_its_own():
    own = sample_features(new_model(1), DATA)
    own = own.with_columns({"useless": torch.arange(N).double()})
    table = consensus_loss(DATA, fit, features=own, also=("useless",), folds=2, rounds=1)
    assert set(own.column_names) < set(table.column_names)
    ranks = (table["out_of_fold_loss"].argsort().argsort() + 1) / N
    assert torch.allclose(table["consensus_loss"], (ranks + (torch.arange(N) + 1) / N).double() / 2)


def test_an_interrupted_one_goes_on_and_another_seed_begins_anew(tmp_path):
    CALLS.clear()
    left = [3]

    def breaks(indices, seed):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return fit(indices, seed)

    breaks.__qualname__ = "fit"
    with pytest.raises(KeyboardInterrupt):
        consensus_loss(DATA, breaks, folds=3, out=tmp_path)
    assert len(CALLS) == 3
    table = consensus_loss(DATA, fit, folds=3, out=tmp_path)
    assert len(CALLS) == 6
    assert torch.equal(table["consensus_loss"], consensus_loss(DATA, fit, folds=3)["consensus_loss"])
    CALLS.clear()
    consensus_loss(DATA, fit, folds=3, out=tmp_path, seed=1)
    assert len(CALLS) == 6


def test_a_factory_that_gives_the_same_model_twice_is_refused():
    one = new_model(0)
    with pytest.raises(TamisError, match="returned the same model for fold 1 of round 1"):
        consensus_loss(DATA, lambda indices, seed: train(one, indices), folds=2)
    with pytest.raises(TamisError, match="not at all; make a new model at each call"):
        consensus_loss(DATA, lambda indices, seed: new_model(0), folds=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": N + 1}, ValueError, "folds=241: must be <= 240, the samples of the data"),
        ({"folds": 1}, ValueError, "folds=1"),
        ({"rounds": 3}, ValueError, "rounds=3"),
        ({"keep": 1.0}, ValueError, "keep=1.0"),
        ({"also": ("loss",)}, ValueError, "needs features="),
        ({"features": FeatureTable({"loss": torch.zeros(3)})}, ValueError, "features: are of 3 samples of other data"),
        (
            {"features": FeatureTable({"loss": torch.zeros(N)}, fingerprint="sha256:0")},
            ValueError,
            "take its own features",
        ),
        ({"features": {"loss": torch.zeros(N)}}, TypeError, "features=dict"),
    ],
)
def test_bad_input_is_named(options, error, message):
    with pytest.raises(error, match=message):
        consensus_loss(DATA, fit, **{"folds": 2, **options})


def test_what_fit_must_be_and_give():
    with pytest.raises(TypeError, match="fit=Linear: must be a function"):
        consensus_loss(DATA, new_model(0), folds=2)
    with pytest.raises(TypeError, match=r"must return the fitted nn.Module, or a Trainer, got NoneType"):
        consensus_loss(DATA, lambda indices, seed: None, folds=2)


# ---- trajectory


def test_the_trajectory_is_the_mean_over_the_batches():
    trajectory, model = LossTrajectory(N), new_model(0)
    x, y = DATA.tensors
    expected = torch.zeros(N)
    margins = torch.zeros(N)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for epoch in range(10):
        for batch in torch.randperm(N, generator=torch_generator(epoch)).split(50):
            logits = model(x[batch])
            trajectory.update(batch, logits, y[batch])
            losses = F.cross_entropy(logits, y[batch], reduction="none")
            expected[batch] += losses.detach() / 10
            for i, row in zip(batch.tolist(), logits.detach(), strict=True):
                margins[i] += (row[y[i]] - max(v for c, v in enumerate(row) if c != y[i])) / 10
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    columns = trajectory.columns()
    assert torch.allclose(columns["mean_loss"].float(), expected, atol=1e-5)
    assert torch.allclose(columns["margin"].float(), margins, atol=1e-5)
    assert auc(columns["mean_loss"].numpy()) > 0.95
    assert auc(-columns["margin"].numpy()) > 0.95
    again = LossTrajectory(N)
    again.load_state_dict(trajectory.state_dict())
    assert torch.equal(again.columns()["margin"], columns["margin"])


def test_bad_batches_and_unseen_samples_are_named():
    trajectory = LossTrajectory(4)
    trajectory.update([0, 1], torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="2 of 4 samples were in no batch, the first is 2"):
        trajectory.columns()
    with pytest.raises(ValueError, match=r"indices: must lie in \[0, 4\)"):
        trajectory.update([7], torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"labels: must lie in \[0, 3\)"):
        trajectory.update([0], torch.zeros(1, 3), torch.tensor([-100]))
    with pytest.raises(ValueError, match="of one batch of a classifier"):
        trajectory.update([0], torch.zeros(1, 5, 3), torch.zeros(1, 5).long())
    with pytest.raises(ValueError, match="size=5, but the saved trajectory is of 4"):
        LossTrajectory(5).load_state_dict(trajectory.state_dict())
