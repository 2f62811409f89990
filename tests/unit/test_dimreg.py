"""DimReg in plain loops: the split, the penalty and its ways in, the state."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tamis.pruners import DimReg, DimRegConfig, ThesisConfig
from tests.reference import dimreg as reference
from tests.unit.dimreg_tools import QUICK, SIZES, STEPS, batches, make, train, trained

# ---- the split


def test_the_kept_share_is_met_exactly() -> None:
    _, pruner, _ = trained(keep=0.25)
    assert int((pruner.gates >= 0.5).sum()) == 6
    assert pruner.logs() == {
        "tamis/keep_share": 0.25,
        "tamis/half_open": 0.0,
        "tamis/penalty": pytest.approx(-5.892, abs=1e-3),
    }


@pytest.mark.parametrize("share", [0.13, 0.3, 0.8])
def test_the_bytes_stay_below_the_budget_and_nothing_more_would_fit(share: float) -> None:
    everything = sum(SIZES.values()) * 8 * 4
    _, pruner, _ = trained(keep=None, budget_bytes=int(share * everything))
    kept = [part >= 0.5 for part in pruner.gates.split(8)]
    spent = [int(k.sum()) * size * 4 for k, size in zip(kept, SIZES.values(), strict=True)]
    assert sum(spent) <= share * everything
    left = share * everything - sum(spent)
    assert all(int(k.sum()) == min(8, size) or size * 4 > left for k, size in zip(kept, SIZES.values(), strict=True))


def test_a_size_is_a_share_of_the_bytes_and_a_fifth_by_default() -> None:
    everything = sum(SIZES.values()) * 8 * 4
    for options in ({}, {"size": 0.2}, {"keep": None, "budget_bytes": int(0.2 * everything)}):
        pruner = DimReg(make(), total_steps=STEPS, config=QUICK, **options)
        assert pruner.rule.budget == pytest.approx(0.2 * everything)
    train(pruner.model, pruner, batches())
    assert pruner.prune().bytes_after("embeddings.user") < 0.2 * everything
    assert pruner.report.bytes_after <= 0.2 * everything


def test_a_small_table_keeps_no_more_dimensions_than_it_has_rows() -> None:
    sizes = {"user": 60, "sex": 2, "colour": 3, "one": 1}
    model = nn.ModuleDict({field: nn.Embedding(rows, 8) for field, rows in sizes.items()})
    model["colour"].padding_idx = 0
    pruner = DimReg(model, size=0.9, config=QUICK, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        rows = [model[field](torch.randint(0, n, (32,), generator=generator)) for field, n in sizes.items()]
        optimizer.zero_grad()
        (sum(row.square().mean() for row in rows) + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
    kept = {field: int((part >= 0.5).sum()) for field, part in zip(sizes, pruner.gates.split(8), strict=True)}
    assert kept == {"user": 7, "sex": 2, "colour": 2, "one": 1}


def test_a_useless_field_loses_its_dimensions_first() -> None:
    generator = torch.Generator().manual_seed(3)
    latent = [torch.randn(n, 4, generator=generator) for n in SIZES.values()]
    model = make("fm")
    pruner = DimReg(model, keep=0.34, total_steps=300)
    data = []
    for _ in range(300):
        ids = torch.stack([torch.randint(0, n, (128,), generator=generator) for n in SIZES.values()], 1)
        data.append({"features": ids, "labels": ((latent[0][ids[:, 0]] * latent[1][ids[:, 1]]).sum(1) > 0).float()})
    train(model, pruner, data, torch.optim.Adam(model.parameters(), lr=3e-2))
    user, item, colour = (int((part >= 0.5).sum()) for part in pruner.gates.split(8))
    assert min(user, item) > colour


@pytest.mark.parametrize("split", ["budget", "mean"])
def test_a_training_is_the_reference_step_by_step(split: str) -> None:
    config = {
        "budget": DimRegConfig(refresh_every=7, min_rows=20, pair_share=0.3, memory=0.8, init_spread=0.3),
        "mean": DimRegConfig.paper(0.5, gate_lr=0.05, strength=1e-2, refresh_every=7, min_rows=20),
    }[split]
    model = make()
    pruner = DimReg(model, keep=0.3, config=config, total_steps=STEPS)
    tables = list(model.embeddings.values())
    settings = {"gate_lr": 0.0, "memory": 0.0, **vars(config), "split": split}
    slow = reference.Controller(pruner.gates.logit().tolist(), [8] * 3, settings, keep=0.3, total_steps=STEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for batch in batches():
        optimizer.zero_grad()
        (model(**batch)["loss"] + pruner.penalty()).backward()
        optimizer.step()
        grads = [table.gate.logits.grad for table in tables]  # None once all gates are where they end
        slopes = torch.cat([torch.zeros(8) if grad is None else grad for grad in grads]).tolist()
        pruner.step()
        weights = [table.weight.detach().numpy() for table in tables]
        slow.step(slopes, weights, [table.counts.numpy() for table in tables])
        assert pruner.gates.logit().tolist() == pytest.approx(slow.logits, abs=2e-3)
    assert 0 < sum(logit > 0 for logit in slow.logits) < 24


# ---- the penalty and its ways in


@pytest.mark.parametrize("config", [QUICK, DimRegConfig.paper(0.8, strength=1e-2, gate_lr=0.05, refresh_every=5)])
def test_a_seeded_gradient_is_the_loss_term(config: DimRegConfig) -> None:
    ends = []
    for seeded in (False, True):
        model = make()
        pruner = DimReg(model, keep=0.25, config=config, total_steps=STEPS // 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        data = batches()
        for first, second in zip(data[::2], data[1::2], strict=True):
            optimizer.zero_grad()
            if seeded:
                pruner.add_penalty_grad()
            for batch in (first, second):
                loss = model(**batch)["loss"] + (0 if seeded else pruner.penalty())
                (loss / 2).backward()
            optimizer.step()
            pruner.step()
        ends.append((pruner.gates, [p.detach().clone() for p in model.parameters()]))
    assert torch.equal(ends[0][0], ends[1][0])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_the_penalty_has_the_gradient_that_is_seeded() -> None:
    _, pruner, _ = trained()
    (leaf,) = pruner.parameters()
    value = pruner.penalty()
    (value * 3).backward()
    wanted, leaf.grad = leaf.grad.clone(), None
    assert pruner.add_penalty_grad(3.0) == pytest.approx(value.item())
    assert torch.equal(leaf.grad, wanted)


def test_a_loss_scale_changes_nothing() -> None:
    gates = []
    for scale in (1.0, 1024.0):
        model = make()
        pruner = DimReg(model, keep=0.25, config=QUICK, total_steps=STEPS)
        for batch in batches(20):
            ((model(**batch)["loss"] + pruner.penalty()) * scale).backward()
            pruner.step(grad_scale=scale)
        gates.append(pruner.gates)
    assert torch.allclose(*gates, atol=1e-6)


def test_a_skipped_step_leaves_no_trace() -> None:
    model = make()
    pruner = DimReg(model, keep=0.25, config=QUICK, total_steps=STEPS)
    (first, second) = batches(2)
    pruner.add_penalty_grad()
    (model(**first)["loss"] * float("inf")).backward()
    pruner.skip_step()
    model.zero_grad()
    other = copy.deepcopy(model)
    twin = DimReg(make(), keep=0.25, config=QUICK, total_steps=STEPS)
    for m, p in ((model, pruner), (twin.model, twin)):
        (m(**second)["loss"] + p.penalty()).backward()
        p.step()
    assert torch.equal(pruner.gates, twin.gates)
    assert other.embeddings["user"].gate.logits.grad is None


def test_the_optimizer_and_the_global_random_state_do_not_see_the_gates() -> None:
    before = torch.get_rng_state()
    model = make()
    parameters = [id(p) for p in model.parameters()]
    DimReg(model, config=DimRegConfig.paper())
    assert [id(p) for p in model.parameters()] == parameters
    assert torch.equal(torch.get_rng_state(), before)


def test_gates_that_have_arrived_cost_no_gradient_and_no_counting_and_learn_again_if_the_training_gets_longer() -> None:
    model, pruner, optimizer = trained()
    gate, counts = model.embeddings["user"].gate, model.embeddings["user"].counts.clone()
    gates = pruner.gates
    (batch,) = batches(1)
    (model(**batch)["loss"] + pruner.penalty()).backward()
    assert gate.logits.grad is None
    assert model.embeddings["user"].weight.grad is not None
    for _ in range(9):
        pruner.step()
    assert torch.equal(pruner.gates, gates)
    assert torch.equal(model.embeddings["user"].counts, counts)
    earlier = {name: tensor.zero_() if "gate" in name else tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(copy.deepcopy(earlier))
    train(model, pruner, batches(5), optimizer)
    assert torch.equal(pruner.gates, gates)
    assert not gate.learning
    pruner.begin(10 * STEPS)
    train(model, pruner, batches(4), optimizer)
    assert gate.learning


def test_a_shared_table_has_one_gate_that_hears_of_every_use() -> None:
    table = nn.Embedding(10, 4)
    model = nn.ModuleDict({"a": table, "b": table, "c": nn.Embedding(10, 4)})
    model["c"].weight = table.weight
    pruner = DimReg(model, keep=0.5, total_steps=10)
    assert len(pruner.gates) == 4
    ids = torch.tensor([1, 2])
    pruner.add_penalty_grad()
    sum(module(ids).square().sum() for module in (model["a"], model["b"], model["c"])).backward()
    alone = DimReg(
        nn.Sequential(nn.Embedding.from_pretrained(table.weight.detach(), freeze=False)), keep=0.5, total_steps=10
    )
    alone.add_penalty_grad()
    (3 * alone.model(ids).square().sum()).backward()
    pruner.step()
    alone.step()
    assert torch.allclose(pruner.state_dict()["importance"], alone.state_dict()["importance"])


# ---- state


@pytest.mark.parametrize("config", [QUICK, DimRegConfig.paper(0.8, strength=1e-2, gate_lr=0.05, refresh_every=5)])
@pytest.mark.parametrize("at", [1, 7, 30])
def test_resuming_is_never_having_stopped(config: DimRegConfig, at: int) -> None:
    model = make(sparse=False)
    pruner = DimReg(model, keep=0.25, config=config, total_steps=STEPS)
    optimizer = train(model, pruner, batches()[:at])
    saved = copy.deepcopy((model.state_dict(), pruner.state_dict(), optimizer.state_dict()))
    train(model, pruner, batches()[at:], optimizer)
    other = make()
    resumed = DimReg(other, keep=0.25, config=config)
    second = torch.optim.Adam(other.parameters(), lr=1e-2)
    for target, state in zip((other, resumed, second), saved, strict=True):
        target.load_state_dict(state)
    train(other, resumed, batches()[at:], second)
    assert torch.equal(pruner.gates, resumed.gates)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_state_of_another_model_is_refused() -> None:
    state = DimReg(make(dim=4), size=0.5).state_dict()
    with pytest.raises(ValueError, match=r"was saved for tables .*4\].* this model has .*8\]"):
        DimReg(make(dim=8)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0.5}, r"saved with keep=0\.25, here is keep=0\.5"),
        ({"budget_bytes": 500}, r"saved with keep=0\.25, here is keep=None"),
        ({"keep": 0.25, "config": DimRegConfig(closing=0.2)}, r"saved with closing=0\.01, here is closing=0\.2"),
    ],
)
def test_the_state_of_other_settings_is_refused(options: dict[str, Any], words: str) -> None:
    state = json.loads(json.dumps(DimReg(make(), keep=0.25).state_dict()["settings"]))
    whole = DimReg(make(), keep=0.25).state_dict() | {"settings": state}
    DimReg(make(), keep=0.25).load_state_dict(whole)
    with pytest.raises(ValueError, match=words):
        DimReg(make(), **options).load_state_dict(whole)


def test_a_state_goes_on_with_its_own_budget_and_settings_where_the_user_names_none() -> None:
    saved = DimReg(make(), keep=0.4, config=QUICK).state_dict()
    resumed = DimReg(make(), total_steps=STEPS)
    resumed.load_state_dict(saved)
    assert (str(resumed.budget), resumed.config) == ("keep=0.4", QUICK)
    assert resumed.rule.budget == round(0.4 * 24)
    named = DimReg(make(), size=0.3)
    with pytest.raises(ValueError, match=r"saved with keep=0\.4, here is keep=None"):
        named.load_state_dict(saved)


def test_the_strength_does_not_move_the_budgets_split() -> None:
    usual = trained()[1].gates >= 0.5
    config = replace(QUICK, strength=0.01)
    assert torch.equal(trained(config=config)[1].gates >= 0.5, usual)


def test_the_old_word_for_the_thesis_form_still_makes_it_and_says_what_to_write() -> None:
    with pytest.warns(FutureWarning, match=r"write ThesisConfig\(\.\.\.\)"):
        config = DimRegConfig(split="mean", gate_lr=0.05, warm_up=0.1)
    assert config == ThesisConfig(strength=1.0, temperature=0.0, init_logit=4.0, init_spread=0.0, gate_lr=0.05)
    assert copy.deepcopy(DimRegConfig(memory=0.5)) == DimRegConfig(memory=0.5)
