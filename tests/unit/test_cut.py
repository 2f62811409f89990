"""The cut computes what the model with zeroed columns computes, whatever is kept and however the table is used."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis import NoEffectWarning
from tamis.pruners import NarrowEmbedding, cut
from tamis.pruners.surgery.held import held_in_lists, warn_of_old
from tamis.pruners.surgery.narrow import NarrowEmbeddingBag
from tests.unit.cut_tools import DIM, SIZES, batch, index, random_model, zeroed

MODEL_NAMES = ["fm", "deepfm", "widedeep", "dotnet"]
FIRST_LAYER = {"mlp.0": [f"embeddings.{field}" for field in SIZES]}


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


kept_sets = st.fixed_dictionaries(
    {
        f"embeddings.{field}": st.sets(st.integers(0, DIM - 1)).map(
            lambda s: torch.tensor(sorted(s), dtype=torch.int64)
        )
        for field in SIZES
    }
)


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("name", MODEL_NAMES)
@settings(max_examples=15, deadline=None)
@given(kept=kept_sets)
def test_outputs_are_those_of_the_zeroed_model(name, project, kept):
    model, inputs = random_model(name), batch()
    reference = zeroed(model, kept)
    wanted = reference(**inputs)["logits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # hypothesis may keep everything
        plan = cut(model, kept, example_inputs=inputs, project=project)
    assert_same(model(**inputs)["logits"], wanted)
    for path, columns in kept.items():
        assert list(model.get_submodule(path).weight.shape) == [plan.tables[path].rows, len(columns)]
        assert model.get_submodule(path).weight.is_contiguous()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_form_follows_from_how_the_table_is_read(name):
    model = random_model(name)
    plan = cut(model, {"embeddings.user": index(1, 4), "embeddings.tag": torch.arange(DIM)}, example_inputs=batch())
    expected = "columns" if name == "widedeep" else "scatter"
    assert {path: table.form for path, table in plan.tables.items()} == {
        "embeddings.user": expected,
        "embeddings.tag": "whole",
    }
    if name == "widedeep":
        assert type(model.embeddings["user"]) is nn.Embedding
        assert model.embeddings["user"].embedding_dim == 2
        assert model.mlp[0].in_features == 3 * DIM + 2 == model.mlp[0].weight.shape[1]
    else:
        assert isinstance(model.embeddings["user"], NarrowEmbedding)
        assert model.embeddings["user"].embedding_dim == DIM


def test_a_field_that_keeps_nothing_holds_no_numbers_and_still_trains():
    model, inputs = random_model("deepfm"), batch()
    cut(model, {"embeddings.user": index()}, example_inputs=inputs)
    table = model.embeddings["user"]
    assert table.weight.numel() == 0
    assert torch.equal(table(torch.tensor([0, 3])), torch.zeros(2, DIM))
    optimizer = torch.optim.Adam(model.parameters())
    model(**inputs)["loss"].backward()
    optimizer.step()


def test_the_projection_starts_as_the_zero_scatter_and_learns():
    model, inputs = random_model("fm"), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cut(model, {"embeddings.user": index(1, 4)}, optimizer=optimizer, project=True)
    table = model.embeddings["user"]
    start = table.projection.detach().clone()
    assert start.nonzero().tolist() == [[1, 0], [4, 1]]
    assert any(p is table.projection for group in optimizer.param_groups for p in group["params"])
    model(**inputs)["loss"].backward()
    optimizer.step()
    assert (table.projection[[0, 2, 3]] != 0).any()


def test_the_first_layer_named_by_the_user_is_cut_without_a_run():
    model, inputs = random_model("widedeep"), batch()
    kept = {"embeddings.user": index(0, 7), "embeddings.hour": index()}
    reference = zeroed(model, kept)
    plan = cut(model, kept, consumers=FIRST_LAYER)
    assert {table.form for table in plan.tables.values()} == {"columns"}
    assert model.mlp[0].in_features == 2 * DIM + 2
    assert_same(model(**inputs)["logits"], reference(**inputs)["logits"])


def test_without_names_or_inputs_every_table_keeps_its_output_width():
    model, inputs = random_model("widedeep"), batch()
    kept = {"embeddings.user": index(0, 7)}
    reference = zeroed(model, kept)
    plan = cut(model, kept)
    assert plan.tables["embeddings.user"].form == "scatter"
    assert plan.consumers == {}
    assert_same(model(**inputs)["logits"], reference(**inputs)["logits"])


class Pooled(nn.Module):
    """One `nn.EmbeddingBag` beside an `nn.Embedding` with every option set, then a norm that mixes all columns."""

    def __init__(self, bag, norm):
        super().__init__()
        self.bag = bag
        self.single = nn.Embedding(10, 6, padding_idx=2)
        self.norm = norm
        self.out = nn.Linear(12, 1)

    def forward(self, ids, weights=None):
        bagged = self.bag(ids, per_sample_weights=weights) if weights is not None else self.bag(ids)
        return self.out(self.norm(torch.cat([bagged, self.single(ids[:, 0])], dim=1)))


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.LayerNorm(12), lambda: nn.BatchNorm1d(12)])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("kept", [index(1, 3, 4), index()], ids=["some", "none"])
def test_embedding_bags_and_norms_behind_them(mode, norm, kept):
    model = Pooled(nn.EmbeddingBag(10, 6, mode=mode, padding_idx=0), norm())
    ids = torch.randint(0, 10, (32, 4), generator=torch.Generator().manual_seed(0))
    model(ids)  # running statistics
    model.eval()
    both = {"bag": kept, "single": kept}
    reference = zeroed(model, both)
    plan = cut(model, both, example_inputs=ids)
    assert {table.form for table in plan.tables.values()} == {
        "columns" if type(model.norm) is nn.Identity else "scatter"
    }
    assert_same(model(ids), reference(ids))
    assert model.bag.padding_idx == 0
    assert model.bag.mode == mode
    assert model.single.padding_idx == 2
    if plan.tables["bag"].form == "scatter":
        assert isinstance(model.bag, NarrowEmbeddingBag)


def test_per_sample_weights_and_offsets_pass_through():
    bag = nn.EmbeddingBag(10, 6, mode="sum")
    model = nn.ModuleDict({"bag": bag})
    kept = {"bag": index(0, 5)}
    reference = zeroed(model, kept)["bag"]
    cut(model, kept)
    flat, offsets, weights = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 1, 1]), torch.tensor([0.5, 1.0, -1.0, 2.0])
    assert_same(
        model["bag"](flat, offsets, per_sample_weights=weights), reference(flat, offsets, per_sample_weights=weights)
    )


def test_max_norm_is_taken_over_the_kept_columns():
    model = nn.Sequential(nn.Embedding(10, 6, max_norm=0.5))
    kept = {"0": index(0, 5)}
    reference = zeroed(model, kept)
    cut(model, kept)
    assert_same(model(torch.arange(10)), reference(torch.arange(10)))


@pytest.mark.parametrize("sparse", [False, True])
def test_options_and_gradients_survive(sparse):
    model, inputs = random_model("fm", sparse=sparse), batch()
    cut(model, {"embeddings.user": index(2)})
    model(**inputs)["loss"].backward()
    assert model.embeddings["user"].weight.grad.is_sparse is sparse


class Shared(nn.Module):
    """A table used at two places (``one`` is ``two``) and tied to a third module and to an output head."""

    def __init__(self):
        super().__init__()
        self.one = self.two = nn.Embedding(9, 4)
        self.third = nn.Embedding(9, 4)
        self.third.weight = self.one.weight
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.one.weight

    def forward(self, ids):
        return self.head(self.one(ids) + 2 * self.two(ids) + 3 * self.third(ids))


def test_shared_tables_are_cut_together_and_a_tied_head_keeps_its_tensor():
    model, ids = Shared(), torch.arange(9)
    optimizer = torch.optim.Adam(model.parameters())
    full = model.head.weight
    rows = full.detach().clone()
    rows[:, [0, 2]] = 0
    wanted = (6 * rows) @ full.detach().T
    plan = cut(model, {"one": index(1, 3), "third": index(1, 3)}, optimizer=optimizer, example_inputs=ids)
    assert_same(model(ids), wanted)
    assert plan.tables.keys() == {"one"}
    assert plan.tables["one"].tied == ("third",)
    assert model.one is model.two
    assert model.third.weight is model.one.weight
    assert model.head.weight is full
    held = optimizer.param_groups[0]["params"]
    assert len(held) == 2
    assert held[0] is full
    assert held[1] is model.one.weight


class Scaled(nn.Embedding):
    """Somebody's subclass whose forward works on any width."""

    def forward(self, ids):
        return super().forward(ids) * 3


class Normalised(nn.Embedding):
    """Somebody's subclass whose rows depend on all columns."""

    def forward(self, ids):
        return nn.functional.normalize(super().forward(ids), dim=-1)


def test_a_subclass_with_its_own_forward_is_tried_first():
    model = nn.Sequential(Scaled(10, 4))
    reference = zeroed(model, {"0": index(1)})
    cut(model, {"0": index(1)})
    assert_same(model(torch.arange(10)), reference(torch.arange(10)))
    assert_same(copy.deepcopy(model)(torch.arange(10)), reference(torch.arange(10)))
    other = nn.Sequential(Normalised(10, 4))
    before = other[0].weight
    with pytest.raises(TypeError, match="Normalised, which has a forward of its own"):
        cut(other, {"0": index(1)})
    assert other[0].weight is before


def test_training_flags_hooks_and_the_global_random_state_are_left_alone():
    model, inputs = random_model("widedeep", dropout=0.2), batch()
    model.mlp.eval()
    flags = [module.training for module in model.modules()]
    table, seen = model.embeddings["user"], []
    table.register_forward_hook(lambda module, args, output: seen.append(output.shape[-1]))
    before = torch.random.get_rng_state()
    cut(model, {"embeddings.user": index(1)}, example_inputs=inputs)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in model.modules()] == flags
    assert model.embeddings["user"] is table
    seen.clear()
    model(**inputs)
    assert seen == [1]


def test_keeping_everything_warns():
    model = random_model("fm")
    with pytest.warns(NoEffectWarning, match="nothing was cut"):
        plan = cut(model, {"embeddings.user": torch.arange(DIM)})
    assert type(model.embeddings["user"]) is nn.Embedding
    assert plan.keep_share == 1


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        ({}, ValueError, r"kept=\{\}: must name at least one table; the model has embeddings.user"),
        (
            {"embeddings.nobody": index(0)},
            TypeError,
            r"kept\['embeddings.nobody'\]: must be the path of an nn.Embedding",
        ),
        ({"mlp.0": index(0)}, TypeError, r"kept\['mlp.0'\]: must be the path of an nn.Embedding"),
        ({"embeddings.user": index(0, 8)}, ValueError, r"kept\['embeddings.user'\]=\[0, 8\]: must lie in \[0, 8\)"),
        ({"embeddings.user": index(-1, 2)}, ValueError, r"must lie in \[0, 8\)"),
        ({"embeddings.user": index(2, 1)}, ValueError, "sorted and without repeats"),
        ({"embeddings.user": index(1, 1)}, ValueError, "sorted and without repeats"),
        ({"embeddings.user": torch.tensor([True, False])}, TypeError, "must be an int64 tensor, got torch.bool"),
        ({"embeddings.user": [1, 2]}, TypeError, "must be an int64 tensor, got list"),
        ({"embeddings.item": index(0), "embeddings.user": index(9)}, ValueError, "must lie in"),
    ],
)
def test_bad_kept_is_refused_before_anything_changes(kept, error, message):
    model = random_model("widedeep")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        cut(model, kept)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_names_of_one_table_must_agree():
    with pytest.raises(ValueError, match=r"kept\['third'\]: shares its table with 'one'"):
        cut(Shared(), {"one": index(1), "third": index(2)})


def test_a_wrapped_model_is_refused():
    model = nn.DataParallel(random_model("fm"))
    with pytest.raises(ValueError, match=r"wrapped in DataParallel.*cut the module inside \(model.module\)"):
        cut(model, {"module.embeddings.user": index(0)})


def test_a_model_is_cut_once():
    model = random_model("fm")
    cut(model, {"embeddings.user": index(0)})
    with pytest.raises(ValueError, match="cut already"):
        cut(model, {"embeddings.item": index(0)})


def test_a_parametrised_table_is_refused():
    model = nn.Sequential(nn.Embedding(5, 4))
    nn.utils.parametrizations.orthogonal(model[0])
    with pytest.raises(TypeError, match="is parametrised"):
        cut(model, {"0": index(1)})


def test_what_still_holds_the_old_tables_is_named_and_what_holds_the_new_ones_is_not():
    model = random_model("deepfm")
    tables = model.embeddings
    model.penalties = [(list(tables["user"].named_parameters()), 0.1), ([model.mlp[0].weight], 0.1)]
    model.mlp.shortcut = {"tag": tables["tag"].weight}
    model.not_cut = [model.bias]
    with pytest.warns(UserWarning, match="a penalty on them acts on nothing") as caught:
        cut(model, {"embeddings.user": index(1), "embeddings.tag": index(0, 2)})
    assert sorted(str(warning.message).partition(",")[0] for warning in caught) == [
        "model.mlp.shortcut still holds the old tensors of embeddings.tag.weight",
        "model.penalties still holds the old tensors of embeddings.user.weight",
    ]
    model.penalties = list(tables.parameters())
    assert held_in_lists(model)
    warn_of_old(model, held_in_lists(model))
