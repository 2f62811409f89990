"""search_swift on a planted signal, and everything a search must keep: resume, restoring, failures, the budget."""

import json
import os
import random  # noqa: TID251  (the objective's, not ours)
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.rng import torch_generator
from tamis.features.table import FeatureTable
from tamis.optimizers.bayesian import propose
from tamis.policy.base import load_policy
from tamis.search import search_swift

N = 400
uniform_is_fine = pytest.mark.filterwarnings("ignore::tamis.core.errors.NoEffectWarning")


def planted():
    """Features whose loss tells wrong samples (the last 40 %) from right ones."""
    generator = torch_generator(2)
    wrong = torch.arange(N) >= 0.6 * N
    loss = torch.rand(N, generator=generator, dtype=torch.float64) + 1.5 * wrong
    entropy, gradient = (torch.rand(N, generator=generator, dtype=torch.float64) for _ in range(2))
    columns = {"loss": loss, "entropy": entropy, "gradient": gradient}
    return FeatureTable(columns, fingerprint="sha256:planted"), wrong.numpy()


def share_of_right(sampler):
    """An objective without a model: how many of the drawn samples are right, less what a narrow law costs."""
    _, wrong = planted()
    order = np.array(list(sampler))
    return float(1 - wrong[order].mean() + 0.5 * len(np.unique(order)) / N)


PAPER = {"plain": False, "repeats": 0}  # trials as in release 0.1: uniform, then the optimizer's


def search(**options):
    defaults = {"trials": 12, "optimizer": "tpe", "seed": 3, **PAPER}
    return search_swift(share_of_right, planted()[0], **{**defaults, **options})


@pytest.mark.parametrize("optimizer", ["gp-ucb", "optuna-gp", "tpe", "random"])
def test_the_planted_signal_is_found(optimizer):
    features, wrong = planted()
    policy = search(trials=16, optimizer=optimizer)
    p = policy.weights(features).numpy()
    assert p[wrong].sum() < (0.32 if optimizer == "random" else 0.25)  # 0.4 under uniform
    assert policy.search.score > 1.0
    assert policy.search.budget == {"trials": 16, "sample_forwards": 3 * 16 * N + N}
    assert policy.search.config["optimizer"] == optimizer


def test_the_same_seed_gives_the_same_policy_and_another_seed_another():
    assert search() == search()
    assert search(seed=4) != search()


def test_the_policy_and_the_journal_are_on_disk(tmp_path):
    policy = search(out=tmp_path)
    assert load_policy(tmp_path) == policy
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["config"]["optimizer"] == "tpe"
    assert [line["trial"] for line in lines[1:]] == list(range(12))
    assert max(line["score"] for line in lines[1:]) == policy.search.score
    assert all(1 <= line["ess"] <= N and line["draws"] == N for line in lines[1:])


def test_a_finished_search_is_not_run_again_and_more_trials_go_on(tmp_path):
    calls = []

    def counted(sampler):
        calls.append(1)
        return share_of_right(sampler)

    counted.__qualname__ = "share_of_right"  # the journal knows an objective by its name

    features = planted()[0]
    first = search_swift(counted, features, **PAPER, trials=10, optimizer="tpe", seed=3, out=tmp_path)
    assert len(calls) == 10
    assert search_swift(counted, features, **PAPER, trials=10, optimizer="tpe", seed=3, out=tmp_path) == first
    assert len(calls) == 10
    assert search_swift(counted, features, **PAPER, trials=12, optimizer="tpe", seed=3, out=tmp_path) == search()
    assert len(calls) == 12


def test_anothers_journal_is_refused(tmp_path):
    search(out=tmp_path, trials=8)
    with pytest.raises(TamisError, match="seed differ"):
        search(out=tmp_path, seed=4)
    other = planted()[0]
    other["loss"][0] += 1
    with pytest.raises(TamisError, match="features differ"):
        search_swift(share_of_right, other, **PAPER, trials=8, optimizer="tpe", seed=3, out=tmp_path)
    with pytest.raises(TamisError, match="optimizer differ"):
        search(out=tmp_path, optimizer="random")
    with pytest.raises(TamisError, match=r"num_samples, score_samples differ \(num_samples=None there, 50 here\)"):
        search(out=tmp_path, num_samples=50, score_samples=100)

    def another_objective(sampler):
        return 1.0

    with pytest.raises(TamisError, match=r"objective differ .*another_objective.*use another out="):
        search_swift(another_objective, planted()[0], **PAPER, trials=8, optimizer="tpe", seed=3, out=tmp_path)


def test_the_first_trial_is_uniform_and_its_score_is_reported(tmp_path):
    policy = search(out=tmp_path)
    line = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[1])
    assert (line["trial"], line["point"], line["ess"]) == (0, [0.5] * 8, pytest.approx(N))
    assert policy.search.config["uniform_score"] == line["score"] < policy.search.score
    assert f"uniform sampling scored {line['score']:.4f} in the same search" in policy.summary()
    assert policy.search.budget == {"trials": 12, "sample_forwards": 3 * 12 * N + N}  # it is one of the trials
    assert load_policy(tmp_path).summary() == policy.summary()


def test_the_optimizer_is_not_told_of_the_uniform_trial(monkeypatch):
    seen = []

    def spy(optimizer, history, count, dim, *, seed):
        seen.append([point.tolist() for point, _ in history])
        return propose(optimizer, history, count, dim, seed=seed)

    monkeypatch.setattr("tamis.search.swift.search.propose", spy)
    policy = search(trials=11)
    assert [len(points) for points in seen] == [0, 8, 9]
    assert [0.5] * 8 not in seen[-1]
    assert policy == search(trials=11)


@pytest.mark.parametrize("trials", [1, 10])
def test_a_search_that_finds_nothing_better_returns_the_uniform_law(trials, tmp_path):
    def evenness(sampler):  # what a short search may run into: each law it tries is worse than uniform
        return -float(np.square(sampler.weights - 1 / N).sum() + 0 * len(list(sampler)))

    with pytest.warns(NoEffectWarning, match=rf"none of {trials - 1} laws scored above uniform sampling \(-?0\)"):
        policy = search_swift(evenness, planted()[0], **PAPER, trials=trials, optimizer="tpe", out=tmp_path)
    assert set(policy.law.heights) == {1.0}
    assert policy.search.score == policy.search.config["uniform_score"]
    assert "every sample is drawn equally often" in policy.summary()
    assert load_policy(tmp_path) == policy


def test_scores_that_are_all_equal_are_said_to_be():
    with pytest.warns(NoEffectWarning, match=r"all 9 trials scored 0.25.*does not depend on what is drawn"):
        policy = search_swift(lambda s: 0.25 + 0 * len(list(s)), planted()[0], **PAPER, trials=9, optimizer="tpe")
    assert set(policy.law.heights) == {1.0}


def test_a_failed_uniform_trial_is_reported_too():
    scores = iter([float("nan"), 1.0, 2.0])
    policy = search_swift(
        lambda s: next(scores) + 0 * len(list(s)), planted()[0], **PAPER, trials=3, optimizer="random"
    )
    assert policy.search.config["uniform_score"] is None
    assert "uniform sampling gave no finite score" in policy.summary()


def test_batches_of_trials_change_proposals_only_after_the_first_nine():
    one, three = search(parallel=1, trials=9), search(parallel=3, trials=9)
    assert one.law == three.law


class Task:
    """A tiny real training, with dropout (torch's global generator) and batch norm (buffers)."""

    def __init__(self):
        generator = torch_generator(0)
        self.x = torch.randn(N, 4, generator=generator)
        self.y = (self.x[:, 0] > 0).long()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        for p in self.model.parameters():
            p.data = torch.randn(p.shape, generator=generator) / 2
        self.seen = []

    def state(self):
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def fit(self, sampler):
        self.seen.append(self.state())
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        for batch in torch.tensor(list(sampler)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(self.model(self.x[batch]), self.y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            return -float(F.cross_entropy(self.model(self.x), self.y))


@uniform_is_fine
def test_every_trial_starts_from_the_shared_weights_bit_for_bit():
    task = Task()
    shared = task.state()
    before = torch.get_rng_state()
    first = search_swift(task.fit, planted()[0], **PAPER, model=task.model, trials=9, optimizer="random")
    assert len(task.seen) == 9
    for state in [*task.seen, task.state()]:  # and the model comes back with them
        assert all(torch.equal(state[name], value) for name, value in shared.items())
    assert all(p.grad is None for p in task.model.parameters())
    assert torch.equal(torch.get_rng_state(), before)  # dropout drew from a seeded copy
    again = search_swift(task.fit, planted()[0], **PAPER, model=task.model, trials=9, optimizer="random")
    assert again == first
    assert again.search == first.search


@uniform_is_fine
def test_draws_are_what_was_taken_and_not_what_was_prepared():
    def fit(sampler):
        running = iter(sampler)
        few = [next(running) for _ in range(5)]
        state = running.state_dict()
        running.load_state_dict({**state, "position": 100})  # a jump draws nothing
        few += [next(running), next(running)]
        return float(len(few) + len(next(sampler.arrays())[:1]))

    budget = search_swift(fit, planted()[0], **PAPER, trials=2, optimizer="random").search.budget
    assert budget["sample_forwards"] == 3 * 2 * (5 + 2 + N) + N


@uniform_is_fine
def test_training_flags_come_back():
    task = Task()
    task.model[1].eval()  # a frozen batch norm
    seen = []

    def fit(sampler):
        seen.append([module.training for module in task.model.modules()])
        task.model.eval()
        return float(len(list(sampler)))

    search_swift(fit, planted()[0], **PAPER, model=task.model, trials=2, optimizer="random")
    flags = [True, True, False, True, True, True]
    assert seen == [flags, flags]
    assert [module.training for module in task.model.modules()] == flags


@uniform_is_fine
def test_trials_are_seeded_and_the_global_generators_come_back():
    seen = []

    def fit(sampler):
        list(sampler)
        seen.append((random.random(), np.random.random(), float(torch.rand(()))))  # noqa: NPY002
        return 1.0

    for _ in range(2):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        search_swift(fit, planted()[0], **PAPER, trials=2, optimizer="random")
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[2])
        random.random()  # (the second search starts from another state)
        np.random.random()  # noqa: NPY002
    assert seen[:2] == seen[2:]
    assert seen[0] != seen[1]


@uniform_is_fine
def test_another_model_is_another_search(tmp_path):
    task = Task()
    search_swift(task.fit, planted()[0], **PAPER, model=task.model, trials=2, optimizer="random", out=tmp_path)
    task.model[0].weight.data[0, 0] += 1
    with pytest.raises(TamisError, match="model differ"):
        search_swift(task.fit, planted()[0], **PAPER, model=task.model, trials=2, optimizer="random", out=tmp_path)


def test_failed_trials_are_passed_over():
    scores = iter([float("nan"), 1.0, float("inf"), 2.0, *[0.5] * 8])

    def fit(sampler):
        list(sampler)
        return next(scores)

    policy = search_swift(fit, planted()[0], **PAPER, trials=12, optimizer="tpe")
    assert policy.search.score == 2.0


def test_one_feature_is_enough():
    both, wrong = planted()
    features = both.select_columns(["loss", "gradient"])
    policy = search_swift(share_of_right, features, **PAPER, trials=16, optimizer="tpe")
    assert len(policy.coefficients) == 1
    assert policy.weights(features).numpy()[wrong].sum() < 0.25


def test_mistakes_in_the_objective_are_named():
    features = planted()[0]
    with pytest.raises(TamisError, match="never drew from its sampler"):
        search_swift(lambda sampler: 1.0, features, trials=1)
    with pytest.raises(TamisError, match="none gave a finite score"):
        search_swift(lambda sampler: len(list(sampler)) * float("nan"), features, trials=2, optimizer="random")
    with pytest.raises(TypeError, match="must return its score or a Trainer"):
        search_swift(lambda sampler: list(sampler) and None, features, trials=1)
    with pytest.raises(TypeError, match=r"objective=float: must be a function sampler -> score.*not its result"):
        search_swift(0.5, features)
    with pytest.raises(TypeError, match=r"model=str: must be the nn.Module that the objective trains"):
        search_swift(share_of_right, features, **PAPER, model="resnet18")
    with pytest.raises(TypeError, match=r"features=Tensor of shape \[400\]: must be a FeatureTable; take one with"):
        search_swift(share_of_right, features["loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials=0"),
        ({"optimizer": "cma"}, "optimizer='cma'"),
        ({"transform": "log"}, "transform='log'"),
        ({"parallel": 0}, "parallel=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_trainer_is_trained_and_its_metric_read():
    class Trainer:  # the two methods that the search uses; the real one is tried in tests/integration
        def __init__(self, sampler):
            self.sampler = sampler

        def train(self):
            self.score = share_of_right(self.sampler)

        def evaluate(self):
            return {"eval_loss": -self.score, "eval_share": self.score}

    features = planted()[0]
    by_loss = search_swift(Trainer, features, **PAPER, trials=9, optimizer="random")
    by_share = search_swift(Trainer, features, **PAPER, trials=9, optimizer="random", metric="eval_share")
    assert by_loss.law == by_share.law == search(trials=9, optimizer="random", seed=0).law
    with pytest.raises(TamisError, match=r"metric='eval_f1'.*eval_loss, eval_share"):
        search_swift(Trainer, features, **PAPER, trials=1, metric="eval_f1")


# ---- kill -9

CHILD = """
import sys, time
from tests.unit import test_swift_search as t
def share_of_right(sampler):
    time.sleep(float(sys.argv[2]))
    return t.share_of_right(sampler)
t.search_swift(share_of_right, t.planted()[0], trials=12, optimizer="tpe", seed=3, out=sys.argv[1], **t.PAPER)
"""


def test_kill_9_and_going_on_gives_the_same_policy_bit_for_bit(tmp_path):
    journal = tmp_path / "journal.jsonl"
    for lines in (4, 10):  # among the first points, and among those that depend on scores
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), "0.15"], env={**os.environ, "PYTHONPATH": "."}
        )
        deadline = time.monotonic() + 300
        while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert not (tmp_path / "policy.json").exists()
    with journal.open("ab") as file:
        file.write(b'{"trial": 10, "po')  # as a crash in the midst of a write leaves it
    policy = search(out=tmp_path)
    whole = search()
    assert policy == whole
    assert policy.search == whole.search
