"""DimReg as a whole, in plain loops: gates, split, cut, state, and what it says to bad input."""

from __future__ import annotations

import copy
import json
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from examples.ctr_models import MODELS
from tamis import NoEffectWarning, NotPolarisedError
from tamis.pruners import DimReg, DimRegConfig
from tests.reference import dimreg as reference

SIZES = {"user": 60, "item": 40, "colour": 5}
STEPS = 60
QUICK = DimRegConfig(refresh_every=5, min_rows=20)


def batches(steps: int = STEPS) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, size, (steps, 32), generator=generator) for size in SIZES.values()]
    features = torch.stack(ids, dim=2)
    return [{"features": f, "labels": ((f[:, 0] + f[:, 1]) % 2).float()} for f in features]


def make(name: str = "deepfm", dim: int = 8, sparse: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251  (the models start as users' models do)
        return MODELS[name](SIZES, dim=dim, hidden=(16,), sparse=sparse)


def train(model: nn.Module, pruner: DimReg, data: list[dict[str, torch.Tensor]], optimizer: Any = None) -> Any:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-2)
    for batch in data:
        optimizer.zero_grad()
        (model(**batch)["loss"] + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
    return optimizer


def trained(name: str = "deepfm", keep: float | None = 0.25, **options: Any) -> tuple[nn.Module, DimReg, Any]:
    model = make(name)
    pruner = DimReg(model, keep, config=options.pop("config", QUICK), total_steps=STEPS, **options)
    return model, pruner, train(model, pruner, batches())


# ---- the split


def test_the_kept_share_is_met_exactly() -> None:
    _, pruner, _ = trained(keep=0.25)
    assert int((pruner.gates >= 0.5).sum()) == 6
    assert pruner.logs() == {
        "tamis/keep_share": 0.25,
        "tamis/half_open": 0.0,
        "tamis/penalty": pytest.approx(-5.892, abs=1e-3),
    }


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_the_bytes_stay_below_the_budget_and_nothing_more_would_fit(share: float) -> None:
    everything = sum(SIZES.values()) * 8 * 4
    _, pruner, _ = trained(keep=None, budget_bytes=int(share * everything))
    kept = [part >= 0.5 for part in pruner.gates.split(8)]
    spent = [int(k.sum()) * size * 4 for k, size in zip(kept, SIZES.values(), strict=True)]
    assert sum(spent) <= share * everything
    left = share * everything - sum(spent)
    assert all(k.all() or size * 4 > left for k, size in zip(kept, SIZES.values(), strict=True))


def test_a_useless_field_loses_its_dimensions_first() -> None:
    generator = torch.Generator().manual_seed(3)
    latent = [torch.randn(n, 4, generator=generator) for n in SIZES.values()]
    model = make("fm")
    pruner = DimReg(model, 0.34, total_steps=300)
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
    pruner = DimReg(model, 0.3, config=config, total_steps=STEPS)
    tables = list(model.embeddings.values())
    slow = reference.Controller(pruner.gates.logit().tolist(), [8] * 3, vars(config), keep=0.3, total_steps=STEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for batch in batches():
        optimizer.zero_grad()
        (model(**batch)["loss"] + pruner.penalty()).backward()
        optimizer.step()
        slopes = torch.cat([table.gate.grad for table in tables]).tolist()
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
        pruner = DimReg(model, 0.25, config=config, total_steps=STEPS // 2)
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
        pruner = DimReg(model, 0.25, config=QUICK, total_steps=STEPS)
        for batch in batches(20):
            ((model(**batch)["loss"] + pruner.penalty()) * scale).backward()
            pruner.step(grad_scale=scale)
        gates.append(pruner.gates)
    assert torch.allclose(*gates, atol=1e-6)


def test_a_skipped_step_leaves_no_trace() -> None:
    model = make()
    pruner = DimReg(model, 0.25, config=QUICK, total_steps=STEPS)
    (first, second) = batches(2)
    pruner.add_penalty_grad()
    (model(**first)["loss"] * float("inf")).backward()
    pruner.skip_step()
    model.zero_grad()
    other = copy.deepcopy(model)
    twin = DimReg(make(), 0.25, config=QUICK, total_steps=STEPS)
    for m, p in ((model, pruner), (twin.model, twin)):
        (m(**second)["loss"] + p.penalty()).backward()
        p.step()
    assert torch.equal(pruner.gates, twin.gates)
    assert other.embeddings["user"].gate.grad is None


def test_the_optimizer_and_the_global_random_state_do_not_see_the_gates() -> None:
    before = torch.get_rng_state()
    model = make()
    parameters = [id(p) for p in model.parameters()]
    DimReg(model, config=DimRegConfig.paper())
    assert [id(p) for p in model.parameters()] == parameters
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shared_table_has_one_gate_that_hears_of_every_use() -> None:
    table = nn.Embedding(10, 4)
    model = nn.ModuleDict({"a": table, "b": table, "c": nn.Embedding(10, 4)})
    model["c"].weight = table.weight
    pruner = DimReg(model, 0.5, total_steps=10)
    assert len(pruner.gates) == 4
    ids = torch.tensor([1, 2])
    pruner.add_penalty_grad()
    sum(module(ids).square().sum() for module in (model["a"], model["b"], model["c"])).backward()
    alone = DimReg(nn.Sequential(nn.Embedding.from_pretrained(table.weight.detach(), freeze=False)), total_steps=10)
    alone.add_penalty_grad()
    (3 * alone.model(ids).square().sum()).backward()
    pruner.step()
    alone.step()
    assert torch.allclose(pruner.state_dict()["importance"], alone.state_dict()["importance"])


# ---- the cut


@pytest.mark.parametrize("name", list(MODELS))
def test_the_cut_model_computes_what_the_gated_one_did(name: str) -> None:
    model, pruner, optimizer = trained(name)
    probe = {"features": batches(1)[0]["features"]}
    gated = model.eval()(**probe)["logits"].detach()
    gates = pruner.gates.split(8)
    zeroed = make(name)
    plain = {key: value for key, value in model.state_dict().items() if not key.endswith((".gate", ".counts"))}
    zeroed.load_state_dict(plain)
    with torch.no_grad():
        for table, gate in zip(zeroed.embeddings.values(), gates, strict=True):
            table.weight.mul_(gate * (gate >= 0.5))
    wanted = zeroed.eval()(**probe)["logits"].detach()
    plan = pruner.prune(optimizer, example_inputs=probe)
    found = model.eval()(**probe)["logits"].detach()
    assert torch.allclose(found, wanted, atol=1e-6)
    assert float((found - gated).abs().max()) == pytest.approx(pruner.report.output_change, abs=1e-7)
    assert pruner.report.output_change < 1e-2
    assert plan.keep_share == pruner.report.keep_share == 0.25
    assert not any(hasattr(module, "gate") for module in model.modules())
    before = [p.detach().clone() for p in model.parameters()]
    model.train()(**batches(1)[0])["loss"].backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True) if b.numel())


def test_the_report_is_a_table() -> None:
    _, pruner, _ = trained(tables={"user": "embeddings.user", "shade": "embeddings.colour"})
    pruner.prune()
    report = pruner.report
    assert [field.field for field in report.fields] == ["user", "shade"]
    assert sum(field.kept for field in report.fields) == 4
    assert report.bytes_before == (60 + 5) * 8 * 4
    assert report.bytes_after == sum(field.kept * field.rows * 4 for field in report.fields)
    assert report.output_change is None
    for word in ("shade", "kept dims", "25.0%", "largest embedding value removed"):
        assert word in str(report)


def test_a_tied_head_keeps_its_own_weight() -> None:
    model = nn.ModuleDict({"emb": nn.Embedding(12, 6), "head": nn.Linear(6, 12, bias=False)})
    model["head"].weight = model["emb"].weight
    weight = model["emb"].weight.detach().clone()
    pruner = DimReg(model, 1.0, total_steps=10)
    gates, ids = pruner.gates, torch.arange(12)
    with pytest.warns(NoEffectWarning):
        pruner.prune()
    assert torch.equal(model["head"].weight, weight)
    assert torch.allclose(model["emb"](ids), weight * gates)


def test_nothing_pruned_is_said() -> None:
    _, pruner, optimizer = trained(keep=1.0)
    with pytest.warns(NoEffectWarning, match="nothing was cut"):
        pruner.prune(optimizer)
    assert pruner.report.keep_share == 1.0


def test_half_open_gates_are_refused_and_nothing_is_changed() -> None:
    model = make()
    pruner = DimReg(model, 0.25, config=DimRegConfig(closing=0.5), total_steps=STEPS)
    train(model, pruner, batches()[:30])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        NotPolarisedError, match=r"of 24 gates .* half open.*nothing was cut.*step 30 of total_steps=60.*force"
    ):
        pruner.prune()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    open_ = int((pruner.gates >= 0.5).sum())
    pruner.prune(force=True)
    assert sum(field.kept for field in pruner.report.fields) == open_


def test_gates_from_before_the_decision_are_refused() -> None:
    model = make()
    pruner = DimReg(model, 0.25, config=QUICK, total_steps=STEPS)
    train(model, pruner, batches()[:3])
    with pytest.raises(NotPolarisedError, match=r"24 of 24 gates are open, the budget holds 4 times less.*step 3 of"):
        pruner.prune()


def test_the_thesis_form_names_its_own_knobs() -> None:
    pruner = DimReg(make(), config=DimRegConfig.paper())
    with pytest.raises(NotPolarisedError, match="raise gate_lr or strength"):
        pruner.prune()


def test_a_closed_gate_whose_column_grew_is_half_open() -> None:
    model, pruner, _ = trained()
    closed = (pruner.gates[:8] < 0.5).nonzero()[0]
    with torch.no_grad():
        model.embeddings["user"].weight[:, closed] = 1e3
    with pytest.raises(NotPolarisedError, match="1 of 24 gates"):
        pruner.prune()


def test_a_closed_column_with_one_huge_row_that_nobody_looks_up_is_refused() -> None:
    model, pruner, _ = trained()
    closed = int((pruner.gates[:8] < 0.5).nonzero()[0, 0])
    user = model.embeddings["user"]
    user.counts[7] = 0
    with torch.no_grad():
        user.weight[7, closed] = 1e6
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        NotPolarisedError, match=r"remove a value of 6\.1 from table 'embeddings.user'.*nothing was cut"
    ):
        pruner.prune()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    pruner.prune(force=True)
    assert pruner.report.largest_removed == pytest.approx(1e6 / (1 + math.exp(12)), rel=1e-3)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_table_that_is_not_finite_is_refused(value: float, force: bool) -> None:
    model, pruner, _ = trained()
    with torch.no_grad():
        model.embeddings["item"].weight[3, 2] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match=r"table 'embeddings.item' holds NaN or infinity, so nothing was cut"):
        pruner.prune(force=force)
    for key, found in model.state_dict().items():
        assert torch.equal(before[key].nan_to_num(), found.nan_to_num())


def test_a_cut_that_fails_leaves_the_gates_on() -> None:
    model, pruner, optimizer = trained()
    gates = pruner.gates
    optimizer.state[model.embeddings["user"].weight]["odd"] = torch.zeros(7)
    with pytest.raises(ValueError, match="odd"):
        pruner.prune(optimizer)
    assert torch.equal(pruner.gates, gates)
    assert model.embeddings["user"].counts.any()
    pruner.prune()
    with pytest.raises(RuntimeError, match="cut already"):
        pruner.prune()


# ---- state


@pytest.mark.parametrize("config", [QUICK, DimRegConfig.paper(0.8, strength=1e-2, gate_lr=0.05, refresh_every=5)])
@pytest.mark.parametrize("at", [1, 7, 30])
def test_resuming_is_never_having_stopped(config: DimRegConfig, at: int) -> None:
    model = make(sparse=False)
    pruner = DimReg(model, 0.25, config=config, total_steps=STEPS)
    optimizer = train(model, pruner, batches()[:at])
    saved = copy.deepcopy((model.state_dict(), pruner.state_dict(), optimizer.state_dict()))
    train(model, pruner, batches()[at:], optimizer)
    other = make()
    resumed = DimReg(other, 0.25, config=config)
    second = torch.optim.Adam(other.parameters(), lr=1e-2)
    for target, state in zip((other, resumed, second), saved, strict=True):
        target.load_state_dict(state)
    train(other, resumed, batches()[at:], second)
    assert torch.equal(pruner.gates, resumed.gates)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_the_state_of_another_model_is_refused() -> None:
    state = DimReg(make(dim=4)).state_dict()
    with pytest.raises(ValueError, match=r"was saved for tables .*4\].* this model has .*8\]"):
        DimReg(make(dim=8)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0.5}, r"saved with keep=0\.25, here is keep=0\.5"),
        ({"budget_bytes": 400}, r"saved with keep=0\.25, here is keep=0\.2"),
        ({"keep": 0.25, "config": DimRegConfig(closing=0.2)}, r"saved with closing=0\.05, here is closing=0\.2"),
    ],
)
def test_the_state_of_other_settings_is_refused(options: dict[str, Any], words: str) -> None:
    state = json.loads(json.dumps(DimReg(make(), 0.25).state_dict()["settings"]))
    whole = DimReg(make(), 0.25).state_dict() | {"settings": state}
    DimReg(make(), 0.25).load_state_dict(whole)
    with pytest.raises(ValueError, match=words):
        DimReg(make(), **options).load_state_dict(whole)


@pytest.mark.parametrize("changes", [{"strength": 0.01}, {"pair_temperature": 0.9}, {"gate_lr": 1.0}])
def test_the_thesis_knobs_do_not_move_the_budgets_split(changes: dict[str, Any]) -> None:
    usual = trained()[1].gates >= 0.5
    config = DimRegConfig(refresh_every=5, min_rows=20, **changes)
    assert torch.equal(trained(config=config)[1].gates >= 0.5, usual)


# ---- bad input


def test_two_budgets() -> None:
    with pytest.raises(ValueError, match=r"keep=0\.2, budget_bytes=400: must not be given both"):
        DimReg(make(), 0.2, budget_bytes=400)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.5, float("nan")])
def test_keep_outside_its_range(keep: float) -> None:
    with pytest.raises(ValueError, match=r"keep=.*must be finite and in \(0, 1\]"):
        DimReg(make(), keep)


@pytest.mark.parametrize(("keep", "share"), [(20, "0.2"), (1.5, "0.015")])
def test_a_percentage(keep: float, share: str) -> None:
    with pytest.raises(ValueError, match=rf"in \(0, 1\], a share; did you mean {share}\?"):
        DimReg(make(), keep)


def test_tables_without_names() -> None:
    with pytest.raises(
        TypeError, match=r"tables=\['embeddings.user'\]: must be a dict of field name -> module path.*list"
    ):
        DimReg(make(), tables=["embeddings.user"])  # type: ignore[arg-type]


def test_a_budget_that_holds_nothing() -> None:
    with pytest.raises(ValueError, match="budget_bytes=19: must be >= 20"):
        DimReg(make(), budget_bytes=19)


def test_a_wrapped_model() -> None:
    with pytest.raises(TypeError, match="model=DataParallel: must be the model inside"):
        DimReg(nn.DataParallel(make()))


def test_a_nan_loss() -> None:
    model = make()
    pruner = DimReg(model, total_steps=10)
    gates = pruner.gates
    (model(**batches(1)[0])["loss"] * float("nan") + pruner.penalty()).backward()
    with pytest.raises(FloatingPointError, match="not finite at step 0, so the loss was NaN"):
        pruner.step()
    assert torch.equal(pruner.gates, gates)


def test_a_step_without_a_penalty() -> None:
    model = make()
    pruner = DimReg(model, total_steps=10)
    model(**batches(1)[0])["loss"].backward()
    with pytest.raises(RuntimeError, match=r"add pruner.penalty\(\) to the loss"):
        pruner.step()


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_that_the_pruner_is_not_told_of(sparse: bool, seeded: bool) -> None:
    model = make(sparse=sparse)
    pruner = DimReg(model, total_steps=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)

    def run(steps: int, told: bool) -> None:
        for batch in batches(steps):
            for _ in range(4):  # micro-batches, which are no slip
                loss = model(**batch)["loss"]
                loss = loss + pruner.add_penalty_grad() if seeded else loss + pruner.penalty()
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if told:
                pruner.step()

    run(5, told=True)
    run(3, told=False)
    with pytest.warns(UserWarning, match=r"changed 3 times without a pruner.step\(\).*after each optimizer.step\(\)"):
        run(1, told=False)
    run(3, told=False)  # said once
    run(5, told=True)


def test_an_unknown_length() -> None:
    model = make()
    pruner = DimReg(model)
    (model(**batches(1)[0])["loss"] + pruner.penalty()).backward()
    with pytest.raises(ValueError, match=r"total_steps=None.*begin\(total_steps\)"):
        pruner.step()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "median"}, "must be one of 'budget', 'mean'"),
        ({"temperature": 1.2}, r"temperature=1.2: must be finite and in \(-1, 1\)"),
        ({"pair_temperature": 1.0}, "pair_temperature=1.0"),
        ({"strength": 0.0}, "strength=0.0"),
        ({"warm_up": 0.5, "decide_by": 0.4}, "decide_by=0.4"),
        ({"threshold": 0.5}, "threshold=0.5"),
        ({"refresh_every": 0}, "refresh_every=0"),
        ({"min_rows": 2}, "min_rows=2"),
        ({"pair_share": 1.1}, "pair_share=1.1"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DimRegConfig(**changes)


def test_no_warning_on_the_usual_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, pruner, optimizer = trained()
        pruner.prune(optimizer, example_inputs={"features": batches(1)[0]["features"]})
