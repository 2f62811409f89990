"""load_pruned: what was saved comes back bit for bit; anything else is a PolicyError that says what is wrong."""

import copy
import json

import pytest
import safetensors.torch
import torch
from torch import nn

import tamis
from tamis import PolicyError
from tamis.pruners import DimReg, cut
from tests.unit.cut_tools import batch, index, random_model

KEPT = {"embeddings.user": index(1, 4), "embeddings.item": index()}


def save(model, path):
    safetensors.torch.save_file(model.state_dict(), path)


@pytest.fixture
def saved(tmp_path):
    model = random_model("widedeep")
    cut(model, KEPT, example_inputs=batch())
    save(model, tmp_path / "model.safetensors")
    return model, tmp_path


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("name", ["fm", "deepfm", "widedeep", "dotnet"])
def test_reload_is_exact(name, project, tmp_path):
    model = random_model(name)
    cut(model, KEPT, example_inputs=batch(), project=project)
    save(model, tmp_path / "model.safetensors")
    fresh = random_model(name)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    loaded = tamis.load_pruned(fresh, tmp_path)
    assert loaded is fresh
    assert torch.equal(loaded(**batch())["logits"], model(**batch())["logits"])
    again = tamis.load_pruned(random_model(name), tmp_path / "model.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_a_part_of_a_model_that_was_cut_is_found(tmp_path):
    def build():
        return nn.ModuleDict({"body": random_model("widedeep"), "head": nn.Linear(1, 1)})

    model = build()
    cut(model["body"], KEPT, example_inputs=batch())
    save(model, tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(build(), tmp_path)
    assert torch.equal(loaded["body"](**batch())["logits"], model["body"](**batch())["logits"])
    assert torch.equal(loaded["head"].weight, model["head"].weight)


def test_a_class_without_sizes_and_what_is_no_model_are_refused(saved):
    _, folder = saved
    with pytest.raises(TypeError, match=r"build the unpruned model first, load_pruned\(Linear\(\.\.\.\), path\)"):
        tamis.load_pruned(nn.Linear, folder)
    with pytest.raises(TypeError, match=r"model=dict: must be an unpruned model, an nn\.Module"):
        tamis.load_pruned({}, folder)


def test_shards_are_read(saved):
    model, folder = saved
    state = model.state_dict()
    names = list(state)
    parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, part in parts.items():
        safetensors.torch.save_file({name: state[name] for name in part}, folder / file)
    (folder / "model.safetensors").unlink()
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    loaded = tamis.load_pruned(random_model("widedeep"), folder)
    assert torch.equal(loaded(**batch())["logits"], model(**batch())["logits"])
    index_file.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(PolicyError, match="a shard must be a bare file name"):
        tamis.load_pruned(random_model("widedeep"), folder)
    index_file.write_text("[1]")
    with pytest.raises(PolicyError, match="not an index of shards"):
        tamis.load_pruned(random_model("widedeep"), folder)


def test_no_plan_no_weights_and_no_safetensors(tmp_path):
    with pytest.raises(PolicyError, match=r"must be a folder with model\.safetensors or"):
        tamis.load_pruned(random_model("fm"), tmp_path)
    save(random_model("fm"), tmp_path / "model.safetensors")
    with pytest.raises(PolicyError, match="hold no pruning plan"):
        tamis.load_pruned(random_model("fm"), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(PolicyError, match="cannot be read as safetensors"):
        tamis.load_pruned(random_model("fm"), tmp_path)


def test_a_pickle_is_never_loaded_and_the_cure_is_named(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(PolicyError, match=r"no safetensors but pytorch_model\.bin: a pickle.*save the cut model as"):
        tamis.load_pruned(random_model("fm"), tmp_path)
    with pytest.raises(PolicyError, match=r"pytorch_model\.bin: is a pickle, which is never loaded.*save_model"):
        tamis.load_pruned(random_model("fm"), tmp_path / "pytorch_model.bin")


def test_gates_that_are_still_there_are_named(saved):
    _, folder = saved
    gated = random_model("widedeep")
    DimReg(gated)
    with pytest.raises(PolicyError, match=r"table 'embeddings.user' is still gated.*take a fresh, unpruned model"):
        tamis.load_pruned(gated, folder)
    with pytest.raises(ValueError, match=r"table 'embeddings.user' is still gated by a pruner; take a fresh model"):
        cut(gated, KEPT)
    save(gated, folder / "model.safetensors")
    with pytest.raises(PolicyError, match=r"saved before the cut, with the table 'embeddings\.[a-z]+' still gated"):
        tamis.load_pruned(random_model("widedeep"), folder)


def test_another_model_is_refused_with_both_shapes(saved):
    _, folder = saved
    other = random_model("widedeep")
    other.embeddings["user"] = nn.Embedding(31, 8)
    with pytest.raises(PolicyError, match=r"'embeddings.user' has shape \[31, 8\] in this model, \[30, 8\]"):
        tamis.load_pruned(other, folder)
    other = random_model("widedeep")
    other.mlp[2] = nn.Linear(16, 9)
    with pytest.raises(PolicyError, match=r"'mlp.2.bias' has shape \[8\], in the model \(cut by its plan\) \[9\]"):
        tamis.load_pruned(other, folder)
    save(nn.ModuleDict({"body": copy.deepcopy(saved[0])}), folder / "model.safetensors")
    with pytest.raises(PolicyError, match="holds a plan for 'body', which the model does not have"):
        tamis.load_pruned(random_model("widedeep"), folder)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_must_match_exactly(saved, change):
    model, folder = saved
    state = model.state_dict()
    if change == "missing":
        del state["bias"]
    else:
        state["surplus"] = torch.zeros(1)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    word = "lacks 'bias'" if change == "missing" else "holds 'surplus', which the model"
    with pytest.raises(PolicyError, match=word):
        tamis.load_pruned(random_model("widedeep"), folder)
