"""The pruning plan as a policy, as a label inside the model, and as a recipe for another model of the same shape."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import tamis
from tamis import PolicyError
from tamis.policy import DataInfo
from tamis.pruners import NarrowEmbedding, PruningPlan, cut
from tamis.pruners.surgery.plan import BUFFER, TableCut
from tests.unit.cut_tools import batch, index, random_model, zeroed

KEPT = {"embeddings.user": index(1, 4), "embeddings.item": index(), "embeddings.tag": torch.arange(8)}


def cut_model(name="widedeep", **kwargs):
    model = random_model(name)
    return model, cut(model, KEPT, example_inputs=batch(), **kwargs)


def test_save_and_load_give_an_equal_plan(tmp_path):
    _, plan = cut_model()
    plan.save(tmp_path)
    loaded = tamis.load_policy(tmp_path)
    assert type(loaded) is PruningPlan
    assert loaded == plan
    document = json.loads((tmp_path / "policy.json").read_text())
    assert document["kind"] == "pruning_plan"
    assert document["spec"]["tables"]["embeddings.user"] == {
        "rows": 30, "dim": 8, "itemsize": 4, "form": "columns", "tied": [],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["widedeep", "deepfm"])
@pytest.mark.parametrize("project", [False, True])
def test_the_model_carries_its_plan(name, project):
    model, plan = cut_model(name, project=project)
    assert PruningPlan.read_from(model.state_dict()[BUFFER]) == plan


def test_bytes_and_shares_count_what_is_there():
    model, plan = cut_model("fm", project=True)
    assert plan.bytes_before("embeddings.user") == 30 * 8 * 4
    assert plan.bytes_after("embeddings.user") == 30 * 2 * 4 + 8 * 2 * 4
    assert plan.keep_share == 10 / 24
    held = sum(p.numel() * 4 for n, p in model.embeddings.named_parameters() if "hour" not in n)
    assert held == sum(plan.bytes_after(path) for path in plan.tables)


def test_summary_and_plot_show_every_table(tmp_path):
    _, plan = cut_model()
    lines = plan.summary().splitlines()
    assert lines[1].split() == ["embeddings.user", "2/8", "columns", "960", "240"]
    assert lines[2].split() == ["embeddings.item", "0/8", "columns", "640", "0"]
    assert lines[3].split() == ["embeddings.tag", "8/8", "whole", "96", "96"]
    assert lines[4].split() == ["total", "41.7%", "1,696", "336"]
    assert lines[5] == "mlp.0: 18 of 32 inputs left"
    figure = plan.plot(tmp_path / "plan.png")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(plan.tables)
    assert [bar.get_width() for bar in axes.patches] == [8, 8, 8, 2, 0, 8]
    assert (tmp_path / "plan.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["widedeep", "deepfm"])
def test_apply_cuts_another_model_the_same_way(name):
    model, plan = cut_model(name)
    other = random_model(name)
    with torch.no_grad():
        other.mlp[0].weight.mul_(2)
    reference = zeroed(other, KEPT)
    plan.apply(other)
    assert {n: p.shape for n, p in other.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}
    inputs = batch()
    torch.testing.assert_close(other(**inputs)["logits"], reference(**inputs)["logits"], rtol=1e-6, atol=1e-6)
    assert PruningPlan.read_from(other.get_buffer(BUFFER)) == plan


def test_apply_ties_what_was_tied_even_if_the_other_model_is_not():
    def build():
        return nn.ModuleDict({"a": nn.Embedding(9, 4), "b": nn.Embedding(9, 4)})

    model, other = build(), build()
    model["b"].weight = model["a"].weight
    cut(model, {"a": index(1)}, project=True)
    PruningPlan.read_from(model.get_buffer(BUFFER)).apply(other)
    assert other["a"].weight is other["b"].weight
    assert other["a"].projection is other["b"].projection
    assert isinstance(other["b"], NarrowEmbedding)


def test_check_names_the_first_mismatch_with_both_shapes():
    _, plan = cut_model()
    assert plan.check(model=random_model("widedeep")) == (*KEPT, "mlp.0")
    other = random_model("widedeep")
    other.embeddings["item"] = nn.Embedding(20, 16)
    with pytest.raises(
        PolicyError, match=r"'embeddings.item' has shape \[20, 16\] in this model, \[20, 8\] in the one"
    ):
        plan.check(model=other)
    other = random_model("widedeep")
    other.mlp[0] = nn.Linear(40, 16)
    with pytest.raises(PolicyError, match=r"'mlp.0' has shape \[16, 40\] in this model, \[16, 32\] in the one"):
        plan.apply(other)
    assert type(other.embeddings["user"]) is nn.Embedding
    assert other.embeddings["user"].weight.shape == (30, 8)
    with pytest.raises(PolicyError, match=r"no nn.Linear 'mlp.0'"):
        plan.check(model=random_model("fm"))
    with pytest.raises(PolicyError, match=r"no embedding 'embeddings.user' \(it has none\).*shape \[30, 8\]"):
        plan.check(model=nn.Linear(3, 3))
    with pytest.raises(PolicyError, match=r"\[30, 2\] in this model, \[30, 8\]"):
        plan.check(model=cut_model()[0])
    with pytest.warns(FutureWarning, match=r"write check\(model=x\)"):
        assert plan.check(random_model("widedeep")) == (*KEPT, "mlp.0")
    with pytest.raises(TypeError, match=r"model: must be an nn.Module, got int"):
        plan.check(model=3)
    assert dataclasses.replace(plan, data=DataInfo(n=5)).check(data=range(5)) == ("n",)


def table(**changes):
    return dataclasses.replace(TableCut(rows=5, dim=4, itemsize=4, form="scatter"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": {}}, r"kept: must have an entry for each of \['t'\], got \[\]"),
        ({"kept": {"t": index(4)}}, r"kept\['t'\]=\[4\]: must lie in \[0, 4\)"),
        ({"kept": {"t": index(1, 0)}}, "sorted and without repeats"),
        ({"kept": {"t": index(1)[None]}}, "one-dimensional"),
        ({"consumers": {"l": 3}}, "columns: must have an entry"),
        ({"consumers": {"l": 3}, "columns": {"l": index(3)}}, r"columns\['l'\]=\[3\]: must lie in \[0, 3\)"),
        ({"tables": {"t": table(form="diagonal")}}, r"tables\['t'\].form='diagonal': must be one of 'whole'"),
        ({"tables": {"t": table(rows=0)}}, r"tables\['t'\].rows=0: must be >= 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes, message):
    fields = {"tables": {"t": table()}, "kept": {"t": index(1, 2)}, "consumers": {}, "columns": {}}
    PruningPlan(**fields)
    with pytest.raises(ValueError, match=message):
        PruningPlan(**fields | changes)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"schema": 2}',
        b'{"schema": 1, "spec": {}, "kept": {}, "columns": {}}',
        b"[" * 9000,
    ],
    ids=["empty", "not text", "a list", "no keys", "newer", "no spec", "deep"],
)
def test_a_damaged_label_raises_policy_error(raw):
    with pytest.raises(PolicyError, match="the model's pruning plan cannot be read"):
        PruningPlan.read_from(torch.tensor(list(raw), dtype=torch.uint8))
