"""The rounds: for three kinds of model, resumed after `kill -9`, with a model that ends no worse."""

import copy
import json
import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import tamis
from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.rng import torch_generator
from tamis.features.losses import make_batch, sample_loss_of
from tamis.samplers import CurriculumSampler, FeatureTable, curriculum_features, log_likelihoods
from tamis.search import AgentConfig, UpdateConfig, loss_changes, search_curriculum
from tamis.search.curriculum.gradient import mean_loss
from tamis.search.curriculum.samples import Samples
from tamis.search.curriculum.states import States
from tamis.search.curriculum.tuned import TunedCopies
from tamis.search.curriculum.updates import Updates
from tamis.search.journal import Journal
from tests.unit.curriculum_models import MODELS, tiny_classifier

AGENT = AgentConfig(steps=60, warm_up=20, replay=40, batch=4, hidden=(8, 8), trailing=20, keep_every=10)
UPDATE = UpdateConfig(batch_size=4, lr=3e-3, eval_every=4, patience=2, max_updates=24)


def features_of(model, items):
    return FeatureTable(
        {"log_likelihood": torch.from_numpy(log_likelihoods(model, items))}, {"log_likelihood": ("sum", "per_token")}
    )


def split(items):
    return items[:40], items[40:]


@pytest.mark.parametrize("kind", MODELS)
def test_one_call_serves_translation_language_models_and_classifiers(kind):
    model, items = MODELS[kind]()
    train, held_out = split(items)
    selection = [make_batch(held_out, range(1, 20, 2), None, model)]
    before = mean_loss(model, selection, sample_loss_of("auto"))
    policy = search_curriculum(
        model, train, held_out, features_of(model, train), rounds=(4, 8), agent=AGENT, update=UPDATE, probes=4,
        reward="first_order", describe=str,
    )  # fmt: skip
    after = mean_loss(model, selection, sample_loss_of("auto"))
    assert after < before
    assert np.isclose(policy.search.score, before - after)
    assert f"fell by so many nats a token, from {before:.4f} to {after:.4f}" in policy.summary()
    assert policy.pool == 8
    assert policy.search.config["agreement"] > 0.9
    assert 0 < policy.distinct <= 1
    assert len(policy.best) == len(policy.worst) == 3
    assert model.training
    assert len(list(CurriculumSampler(policy, features_of(model, train)))) == 5


def test_without_updates_the_model_is_untouched_and_exact_probes_are_the_paper_s():
    model, items = tiny_classifier()
    train, held_out = split(items)
    before = copy.deepcopy(model.state_dict())
    settings = dict(rounds=(4,), update=None, probe_lr=1e-2)
    table = features_of(model, train)
    first = search_curriculum(model, train, held_out, table, agent=AGENT, reward="first_order", **settings)
    chosen = AgentConfig(**{**vars(AGENT), "observe": "chosen"})
    exact = search_curriculum(model, train, held_out, table, agent=chosen, reward="exact", **settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # a look at 8 features, 10 reward samples: their loss before, 60 probes of 13 forwards
    assert exact.search.budget["sample_forwards"] == 8 + 10 + 60 * 13
    # one gradient, 40 samples, the loss before, 16 checks
    assert first.search.budget["sample_forwards"] == 8 + 3 * 10 + 2 * 40 + 10 + 16 * 13
    assert exact.search.score != first.search.score
    assert "what one step on the agent's choice takes off the validation loss" in first.summary()


def search(out, kind="classifier", reward="first_order"):
    model, items = MODELS[kind]()
    train, held_out = split(items)
    agent = AGENT if reward != "exact" else AgentConfig(**{**vars(AGENT), "observe": "chosen"})
    policy = search_curriculum(
        model, train, held_out, features_of(model, train), rounds=(4, 8), agent=agent, update=UPDATE, probes=4,
        reward=reward, out=out,
    )  # fmt: skip
    return policy, model


def test_a_policy_over_all_groups_of_features_is_the_same_from_disk(tmp_path):
    model, items = tiny_classifier()
    train, held_out = split(items)
    columns = {"text": ["a b c"[: 1 + 2 * (k % 3)] for k in range(40)], "odd": [k % 2 for k in range(40)]}
    table = curriculum_features(columns, text=["text"], columns=["odd"], model=model, items=train)
    assert list(table.groups) != sorted(table.groups)
    options = dict(rounds=(4,), agent=AGENT, update=None, reward="first_order", out=tmp_path)
    policy = search_curriculum(model, train, held_out, table, **options)
    again = tamis.load_policy(tmp_path)
    assert again == policy
    assert torch.equal(again(table), policy(table))


def mixture(seed, wrong=0.3):
    """A linear model at its end on five classes with wrong labels: (model, train, held out, features)."""
    generator = torch_generator(seed)
    means, labels = torch.randn(5, 20, generator=generator), torch.randint(5, (800,), generator=generator)
    x = means[labels] + 2 * torch.randn(800, 20, generator=generator)
    bad = torch.rand(500, generator=generator) < wrong
    noisy = torch.where(bad, torch.randint(5, (500,), generator=generator), labels[:500])
    model = nn.Linear(20, 5)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:500]), noisy).backward()
        optimizer.step()
    optimizer.zero_grad()
    train = list(zip(x[:500], noisy.tolist(), strict=True))
    output = torch.cat([nn.functional.one_hot(noisy, 5).float(), model(x[:500]).detach()], 1)
    table = features_of(model, train).with_group("output", output)
    return model, train, list(zip(x[500:], labels[500:].tolist(), strict=True)), table


def test_fresh_rewards_help_where_the_paper_s_two_strict_rounds_do_less():
    agent = AgentConfig(steps=150, warm_up=20, hidden=(32, 32), trailing=50)
    scores = []
    for options, updates in (({}, 75), ({"rounds": (16, 128)}, 150)):  # 300 updates each
        model, train, held_out, table = mixture(3)
        update = UpdateConfig(batch_size=8, lr=3e-3, eval_every=25, patience=100, max_updates=updates)
        found = search_curriculum(
            model, train, held_out, table, agent=agent, update=update, probes=0, batch_size=500, reward="first_order",
            **options,
        )  # fmt: skip
        scores.append(found.search.score)
    assert scores[0] > 1.3 * scores[1] > 0


def test_lookahead_is_counted_and_goes_without_probes():
    model, items = tiny_classifier()
    train, held_out = split(items)
    settings = dict(rounds=(4,), update=None, agent=AGENT)
    near = search_curriculum(model, train, held_out, features_of(model, train), reward="first_order", **settings)
    far = search_curriculum(model, train, held_out, features_of(model, train), lookahead=5, **settings)
    # 10 reward samples: the loss at both ends of 5 steps on one batch of all; 40 samples; no probes
    assert far.search.budget["sample_forwards"] == 8 + 2 * 10 + 5 * 3 * 10 + 2 * 40
    assert far.search.config["agreement"] is None
    assert not torch.equal(near(features_of(model, train)), far(features_of(model, train)))
    with pytest.raises(ValueError, match="lookahead=0"):
        search_curriculum(model, train, held_out, features_of(model, train), lookahead=0, **settings)


class _Stop(Exception):
    """The process is gone."""


@pytest.mark.parametrize("reward", ["first_order", "exact"])
def test_a_search_goes_on_from_every_line_of_its_journal(tmp_path, reward, monkeypatch):
    want, model = search(tmp_path / "whole", reward=reward)
    assert tamis.load_policy(tmp_path / "whole") == want
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines()
    number = len(lines)
    places = range(2, number + 1) if reward == "first_order" else (2, 30, 61, 62, 64, number - 2, number)
    killed = 5 if reward == "first_order" else 61
    append = Journal.append

    def dying(self, records):
        append(self, records)
        if len(self.path.read_bytes().splitlines()) >= keep:
            raise _Stop

    for keep in places:
        folder = tmp_path / str(keep)
        if keep != killed:
            with monkeypatch.context() as patch:
                patch.setattr(Journal, "append", dying)
                with pytest.raises(_Stop):
                    search(folder, reward=reward)
        else:
            assert _killed_after(folder, keep, reward) == -signal.SIGKILL
        again, same = search(folder, reward=reward)
        assert again == want
        assert again.search == want.search
        assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))
        assert (folder / "journal.jsonl").read_bytes().splitlines()[1:] == lines[1:]


def _killed_after(folder, keep, reward):
    """Run the search in a process that kills itself with SIGKILL when its journal has ``keep`` lines."""
    code = (
        "import os, signal, sys\n"
        "from tamis.search.journal import Journal\n"
        "from tests.unit.test_curriculum_search import search\n"
        "append = Journal.append\n"
        "def dying(self, records):\n"
        "    append(self, records)\n"
        f"    if len(self.path.read_bytes().splitlines()) >= {keep}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Journal.append = dying\n"
        f"search({str(folder)!r}, reward={reward!r})\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False).returncode


def test_states_keep_model_optimizer_and_scheduler(tmp_path):
    for folder in (None, tmp_path):
        model = nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        states = States(model, optimizer, scheduler, folder)
        x = torch.ones(3, 2)

        def step(model=model, optimizer=optimizer, scheduler=scheduler, x=x):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            scheduler.step()

        step()
        states.save("a")
        step()
        want = copy.deepcopy([p.detach() for p in model.parameters()]), optimizer.param_groups[0]["lr"]
        states.save("b")
        states.restore("a")
        step()
        assert all(torch.equal(a, b) for a, b in zip(want[0], model.parameters(), strict=True))
        assert optimizer.param_groups[0]["lr"] == want[1]
        states.restore("b")
        states.drop("a")
        assert not states.has("a")
        with pytest.raises((TamisError, KeyError)):
            states.restore("a")


def test_bad_input_is_named(tmp_path):
    model, items = tiny_classifier()
    train, held_out = split(items)
    table = features_of(model, train)
    quick = dict(rounds=(4,), agent=AGENT, update=None, probes=0, reward="first_order")
    with pytest.raises(ValueError, match="features: of 20 samples, but train has 40"):
        search_curriculum(model, train, held_out, features_of(model, held_out), **quick)
    with pytest.raises(ValueError, match="validation: 0 samples"):
        search_curriculum(model, train, [], table, **quick)
    with pytest.raises(ValueError, match="rounds=41"):
        search_curriculum(model, train, held_out, table, **{**quick, "rounds": (41,)})
    with pytest.warns(UserWarning, match="2 training samples are validation samples too"):
        search_curriculum(model, train, [*held_out, *train[:2]], table, **quick)
    with pytest.warns(UserWarning, match="3 training samples are selection samples too"):
        search_curriculum(model, train, held_out, table, selection=train[:3], **quick)
    with pytest.warns(UserWarning, match="4 validation samples are selection samples too"):
        search_curriculum(model, train, held_out, table, selection=held_out[:4], **quick)
    with pytest.raises(ValueError, match=r"features: log_likelihood of samples .* is not what the model gives them"):
        search_curriculum(model, train[::-1], held_out, table, **quick)
    other = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer: has no parameter of model"):
        search_curriculum(model, train, held_out, table, **{**quick, "update": UpdateConfig()}, optimizer=other)
    with pytest.raises(ValueError, match="lookahead=5: is for reward='first_order'"):
        search_curriculum(model, train, held_out, table, **{**quick, "reward": "exact"}, lookahead=5)
    for name, value, message in (
        ("agent", {"steps": 10}, r"agent=\{'steps': 10\}: must be an AgentConfig.*, got dict"),
        ("update", 3, "update=3: must be an UpdateConfig"),
        ("rounds", 4, "rounds=4: must be a tuple, one pool size a round, .* got int"),
        ("rounds", [4.0], "rounds=4.0: must be an int, got float"),
    ):
        with pytest.raises(TypeError, match=message):
            search_curriculum(model, train, held_out, table, **{**quick, name: value})
    with pytest.raises(TypeError, match=r"features=tensor.*: must be a FeatureTable; take one by .* got Tensor"):
        search_curriculum(model, train, held_out, torch.zeros(40, 2), **quick)
    broken = [(torch.full((6,), float("nan")), 0), *train[1:]]
    with pytest.raises(TamisError, match="reward of sample 0: nan"):
        search_curriculum(model, broken, held_out, table, **quick)
    search_curriculum(model, train, held_out, table, out=tmp_path, **quick)
    with pytest.raises(TamisError, match="another search: seed differ"):
        search_curriculum(model, train, held_out, table, out=tmp_path, seed=1, **quick)
    with pytest.raises(TamisError, match="another search: rounds differ"):
        search_curriculum(model, train, held_out, table, out=tmp_path, **{**quick, "rounds": (8,)})
    with pytest.raises(TamisError, match="another search: loss differ"):
        search_curriculum(model, train, held_out, table, out=tmp_path, loss="classifier", **quick)
    mended = [(held_out[0][0] + 1, held_out[0][1]), *held_out[1:]]
    with pytest.raises(TamisError, match="another search: held_out_data differ"):
        search_curriculum(model, train, mended, table, out=tmp_path, **quick)
    other = [train[0], (train[1][0] + 1, train[1][1]), *train[2:]]  # no sample whose feature is looked at
    with pytest.raises(TamisError, match="step 0 is of other data: train or its order has changed"):
        search_curriculum(model, other, held_out, table, out=tmp_path, **quick)
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert header["config"]["search"] == "curriculum"


def test_half_precision_goes_without_probes():
    model, items = tiny_classifier()
    train, held_out = split([(x.bfloat16(), y) for x, y in items])
    quick = dict(rounds=(4,), agent=AGENT, update=None)
    table = features_of(model.bfloat16(), train)
    found = search_curriculum(model, train, held_out, table, reward="first_order", **quick)
    assert found.search.config["agreement"] is None
    with pytest.raises(TamisError, match="below float32"):
        search_curriculum(model, train, held_out, table, reward="exact", **quick)


def test_a_search_stopped_by_a_bad_sample_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tamis.search.curriculum.rewards.CHUNK", 16)
    model, items = tiny_classifier()
    train, held_out = split(items)
    quick = dict(rounds=(4,), agent=AGENT, update=None, probes=0, reward="first_order")
    table = features_of(model, train)
    whole = search_curriculum(model, train, held_out, table, out=tmp_path / "whole", **quick)
    broken = [*train[:20], (torch.full((6,), float("nan")), 0), *train[21:]]
    with pytest.raises(TamisError, match=r"reward of sample 20: nan: must be finite.*goes on from its journal"):
        search_curriculum(model, broken, held_out, table, out=tmp_path / "stopped", **quick)
    kept = (tmp_path / "stopped" / "journal.jsonl").read_bytes().splitlines()[1:]
    assert len(kept) == 1  # the first 16 rewards
    assert search_curriculum(model, train, held_out, table, out=tmp_path / "stopped", **quick) == whole
    assert (tmp_path / "stopped" / "journal.jsonl").read_bytes().splitlines()[1:2] == kept


def test_no_improvement_warns_and_leaves_the_model_as_it_was():
    model, items = tiny_classifier()
    train, held_out = split(items)
    before = copy.deepcopy(model.state_dict())
    update = UpdateConfig(batch_size=4, lr=1.0, eval_every=4, patience=1, max_updates=4)
    with pytest.warns(NoEffectWarning, match="no update lowered"):
        policy = search_curriculum(
            model, train, held_out, features_of(model, train), rounds=(4,), agent=AGENT, update=update, probes=0,
            reward="first_order",
        )  # fmt: skip
    assert policy.search.score == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_first_order_rewards_that_lie_are_doubted():
    model, items = tiny_classifier()
    train, held_out = split(items)
    with pytest.warns(UserWarning, match="first-order rewards agree"):
        search_curriculum(
            model, train, held_out, features_of(model, train), rounds=(4,), agent=AGENT, update=None, probe_lr=1.0,
            reward="first_order",
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search_curriculum(
            model, train, held_out, features_of(model, train), rounds=(4,), agent=AGENT, update=None, probe_lr=1e-4,
            reward="first_order",
        )  # fmt: skip


# ---- tuned copies and trusted data


def test_the_fall_of_the_loss_tells_wrong_labels_where_the_present_gradient_does_less():
    model, train, held, _ = mixture(0)[:4]
    clean = mixture(0, wrong=0.0)[1]
    wrong = np.array([int(a[1] if isinstance(a, tuple) else a["labels"]) for a in train]) != np.array(
        [int(a[1] if isinstance(a, tuple) else a["labels"]) for a in clean]
    )
    before = copy.deepcopy(model.state_dict())
    changes = loss_changes(model, train, held, loss="classifier", lr=1e-2).numpy()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert np.mean(changes[~wrong][:, None] > changes[wrong][None]) > 0.7
    again = loss_changes(model, train, held, loss="classifier", lr=1e-2).numpy()
    assert np.array_equal(changes, again)


def test_copies_that_tuning_does_not_help_stay_as_they_were():
    model, train, held, _ = mixture(0)[:4]
    options = dict(collate=None, loss=sample_loss_of("classifier"), passes=3, seed=0, batch_size=64)
    with pytest.warns(NoEffectWarning, match=r"in no pass, so the copies are the model .* than 0.9"):
        copies = TunedCopies(model, held, lr=0.9, **options)
    assert copies.passes == [0, 0]  # so large a step helps no other half
    assert np.allclose(copies.changes([make_batch(train, range(10), None, model)]), 0)


def test_trusted_data_are_trained_on_and_journaled(tmp_path):
    model, items = tiny_classifier()
    train, held_out = split(items)
    held_out, trusted = held_out[:10], held_out[10:]
    seen = []

    class Watched(list):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    options = dict(rounds=(4,), agent=AGENT, update=UPDATE, tune_lr=1e-2, loss="classifier")
    start = copy.deepcopy(model.state_dict())
    features = features_of(model, train)
    policy = search_curriculum(model, train, held_out, features, trusted=Watched(trusted), out=tmp_path, **options)
    assert set(seen) == set(range(len(trusted)))
    end = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(start)
    again = search_curriculum(model, train, held_out, features, trusted=trusted, out=tmp_path, **options)
    assert again == policy
    assert all(torch.equal(value, end[name]) for name, value in model.state_dict().items())
    model.load_state_dict(start)
    with pytest.raises(TamisError, match="trusted differ"):
        search_curriculum(model, train, held_out, features, trusted=trusted[1:], out=tmp_path, **options)
    model.load_state_dict(start)
    with pytest.raises(ValueError, match="trusted: 1 samples; must be at least two"):
        search_curriculum(model, train, held_out, features, trusted=trusted[:1], **options)


def test_a_share_of_each_update_is_trusted_and_every_one_comes_in_turn():
    samples = Samples(
        model=nn.Linear(1, 1), train=range(40), validation=range(2), selection=range(2), collate=None,
        loss=sample_loss_of("auto"), batch_size=4, prints=None, trusted=range(7),
    )  # fmt: skip
    update = UpdateConfig(batch_size=8, eval_every=5, max_updates=10, mix=0.25)
    work = Updates(samples, update, None, None, number=0, seed=3)
    parts = [*work._trusted(0), *work._trusted(1)]
    assert [len(part) for part in parts] == [2] * 10
    drawn = np.concatenate(parts)
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(range(7))
    assert drawn[:7].tolist() != drawn[7:14].tolist()
    without = Updates(samples, UpdateConfig(mix=0.0), None, None, number=0, seed=3)
    assert without.trusted_each == 0


def test_an_agent_whose_choice_does_not_help_is_not_passed_off_as_one_that_does():
    model, train, held_out, table = mixture(0, wrong=0.0)
    against = [(x, (label + 1) % 5) for x, label in held_out]  # the opposite of what the training data say
    with pytest.warns(NoEffectWarning, match=r"mean reward of -.*, not above 0: its choice does not help"):
        search_curriculum(
            model, train, held_out, table, trusted=against, rounds=(4,), agent=AGENT, update=None, tune_lr=1e-2,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune_passes": 0}, "tune_passes=0"),
        ({"tune_lr": 0.0}, "tune_lr=0.0"),
        ({"reward": "best"}, "reward='best': must be one of 'tuned', 'first_order', 'exact'"),
        ({"lookahead": 36, "reward": "tuned"}, "lookahead=36: is for reward='first_order'"),
    ],
)
def test_bad_settings_of_the_rewards_are_named(options, message):
    model, items = tiny_classifier()
    train, held_out = split(items)
    with pytest.raises(ValueError, match=message):
        search_curriculum(model, train, held_out, features_of(model, train), agent=AGENT, **options)
    with pytest.raises(ValueError, match=r"mix=1.0"):
        UpdateConfig(mix=1.0)
