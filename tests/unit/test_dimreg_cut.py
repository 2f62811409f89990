"""DimReg's cut: what comes out, what is refused, and what is then left as it was."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from examples.ctr_models import MODELS
from tamis import NoEffectWarning, NotPolarisedError
from tamis.pruners import DimReg, DimRegConfig
from tests.unit.dimreg_tools import QUICK, STEPS, batches, make, train, trained


@pytest.mark.parametrize("name", list(MODELS))
def test_the_cut_model_computes_what_the_gated_one_did(name: str) -> None:
    model, pruner, optimizer = trained(name)
    probe = {"features": batches(1)[0]["features"]}
    gated = model.eval()(**probe)["logits"].detach()
    gates = pruner.gates.split(8)
    zeroed = make(name)
    plain = {key: value for key, value in model.state_dict().items() if not key.endswith((".logits", ".counts"))}
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
    with pytest.warns(NoEffectWarning):
        pruner = DimReg(model, keep=1.0, total_steps=10)
    gates, ids = pruner.gates, torch.arange(12)
    with pytest.warns(NoEffectWarning):
        pruner.prune()
    assert torch.equal(model["head"].weight, weight)
    assert torch.allclose(model["emb"](ids), weight * gates)


def test_nothing_pruned_is_said() -> None:
    with pytest.warns(NoEffectWarning, match=r"keep=1 holds every dimension, so nothing will be pruned; try size=0\.2"):
        _, pruner, optimizer = trained(keep=1.0)
    with pytest.warns(NoEffectWarning, match="nothing was cut"):
        pruner.prune(optimizer)
    assert pruner.report.keep_share == 1.0
    with pytest.warns(NoEffectWarning, match="budget_bytes=3360 holds every dimension"):
        DimReg(make(), budget_bytes=105 * 8 * 4)


def test_half_open_gates_are_refused_and_nothing_is_changed() -> None:
    model = make()
    pruner = DimReg(model, keep=0.25, config=replace(QUICK, closing=0.5), total_steps=STEPS)
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
    pruner = DimReg(model, keep=0.25, config=QUICK, total_steps=STEPS)
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
