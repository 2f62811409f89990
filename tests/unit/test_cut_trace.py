"""Columns of linear layers are cut only where a table's dimensions arrive unchanged, and only if no output changes."""

import pytest
import torch
from torch import nn

from tamis.pruners import cut
from tests.unit.cut_tools import DIM, batch, index, random_model, zeroed


class Towers(nn.Module):
    """Two tables and dense features into two linear layers, in two orders; ``besides`` reads a table besides."""

    def __init__(self, besides=None, dtype=torch.float32):
        super().__init__()
        self.a, self.b = nn.Embedding(10, 6), nn.Embedding(12, 4)
        self.left, self.right = nn.Linear(13, 5), nn.Linear(10, 5)
        self.out = nn.Linear(10, 1)
        self.besides = besides
        self.to(dtype)

    def forward(self, ids, dense):
        a, b = self.a(ids[:, 0]), self.b(ids[:, 1])
        left = self.left(torch.cat([a, dense, b], dim=1))
        right = self.right(torch.cat([b, a], dim=1))
        logits = self.out(torch.cat([left, right], dim=1))
        return logits if self.besides is None else logits + self.besides(a, b)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 10, (32, 2), generator=generator), torch.randn(32, 3, generator=generator).to(dtype)


KEPT = {"a": index(0, 4), "b": index(1)}


def forms(plan):
    return {path: table.form for path, table in plan.tables.items()}


def test_every_layer_that_reads_a_table_is_found_whatever_the_order():
    model = Towers()
    reference = zeroed(model, KEPT)
    plan = cut(model, KEPT, example_inputs=inputs())
    assert forms(plan) == {"a": "columns", "b": "columns"}
    assert plan.columns["left"].tolist() == [0, 4, 6, 7, 8, 10]
    assert plan.columns["right"].tolist() == [1, 4, 8]
    assert plan.consumers == {"left": 13, "right": 10}
    torch.testing.assert_close(model(*inputs()), reference(*inputs()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_markers_are_told_apart_in_every_precision(dtype):
    model = Towers(dtype=dtype)
    plan = cut(model, KEPT, example_inputs=inputs(dtype))
    assert forms(plan) == {"a": "columns", "b": "columns"}


@pytest.mark.parametrize(
    "besides",
    [
        lambda a, b: (a[:, :4] * b).sum(1, keepdim=True),  # raises on narrow tables
        lambda a, b: a.mean(1, keepdim=True),  # runs on narrow tables and gives other numbers
    ],
    ids=["shape error", "other numbers"],
)
def test_a_table_that_is_read_elsewhere_keeps_its_output_width(besides):
    model = Towers(besides)
    reference = zeroed(model, KEPT)
    plan = cut(model, KEPT, example_inputs=inputs())
    assert forms(plan)["a"] == "scatter"
    torch.testing.assert_close(model(*inputs()), reference(*inputs()), rtol=1e-6, atol=1e-6)


def test_the_other_table_is_still_cut_by_columns():
    model = Towers(lambda a, b: a.mean(1, keepdim=True))
    plan = cut(model, KEPT, example_inputs=inputs())
    assert forms(plan) == {"a": "scatter", "b": "columns"}
    assert plan.columns["left"].tolist() == [*range(9), 10]
    assert model.left.in_features == 10


def test_a_layer_that_is_fed_two_things_is_not_cut():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.layer = nn.Embedding(10, 4), nn.Embedding(10, 4), nn.Linear(4, 1)

        def forward(self, ids):
            return self.layer(self.a(ids)) + self.layer(self.b(ids))

    model, ids = Twice(), torch.arange(10)
    reference = zeroed(model, {"a": index(1)})
    plan = cut(model, {"a": index(1)}, example_inputs=ids)
    assert forms(plan) == {"a": "scatter"}
    torch.testing.assert_close(model(ids), reference(ids), rtol=1e-6, atol=1e-6)


def test_a_layer_whose_weight_another_module_shares_is_not_cut():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    plan = cut(model, {"0": index(1)}, example_inputs=torch.arange(10))
    assert forms(plan) == {"0": "scatter"}


def test_named_layers_that_the_example_contradicts_warn_and_keep_their_width():
    model, inputs = random_model("deepfm"), batch()
    kept = {"embeddings.user": index(0, 3)}
    reference = zeroed(model, kept)
    names = {"mlp.0": ["embeddings.user", "embeddings.item", "embeddings.hour", "embeddings.tag"]}
    with pytest.warns(UserWarning, match="the outputs change if embeddings.user lose columns"):
        plan = cut(model, kept, consumers=names, example_inputs=inputs)
    assert forms(plan) == {"embeddings.user": "scatter"}
    assert model.mlp[0].in_features == 4 * DIM
    torch.testing.assert_close(model(**inputs)["logits"], reference(**inputs)["logits"], rtol=1e-6, atol=1e-6)


def test_named_layers_in_the_wrong_order_are_noticed():
    model = Towers()
    with pytest.warns(UserWarning, match="or the order is another"):
        plan = cut(model, KEPT, consumers={"left": ["b", 3, "a"], "right": ["b", "a"]}, example_inputs=inputs())
    assert "scatter" in forms(plan).values()


def test_named_layers_with_other_columns_between():
    model = Towers()
    reference = zeroed(model, KEPT)
    plan = cut(model, KEPT, consumers={"left": ["a", 3, "b"], "right": ["b", "a"]})
    assert plan.columns["left"].tolist() == [0, 4, 6, 7, 8, 10]
    torch.testing.assert_close(model(*inputs()), reference(*inputs()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("consumers", "message"),
    [
        ({"left": ["a", "b"]}, r"consumers\['left'\]: the parts have 10 columns in all, the layer has in_features=13"),
        ({"left": ["a", 3, "c"]}, r"'c' is not an embedding table; the model has a, b"),
        ({"middle": ["a"]}, r"consumers\['middle'\]: must be the path of an nn.Linear.*left, right, out"),
    ],
)
def test_consumers_that_do_not_fit_are_refused_before_anything_changes(consumers, message):
    model = Towers()
    with pytest.raises(ValueError, match=message):
        cut(model, KEPT, consumers=consumers)
    assert model.a.weight.shape == (10, 6)
    assert type(model.a) is nn.Embedding


def test_example_inputs_that_do_not_run_warn_and_cut_no_layer():
    model = Towers()
    reference = zeroed(model, KEPT)
    with pytest.warns(UserWarning, match=r"example_inputs: the model does not run on them \(TypeError"):
        plan = cut(model, KEPT, example_inputs=torch.arange(3))
    assert set(forms(plan).values()) == {"scatter"}
    torch.testing.assert_close(model(*inputs()), reference(*inputs()), rtol=1e-6, atol=1e-6)


def test_a_table_named_by_its_tied_twin():
    model = Towers()
    model.c = nn.Embedding(10, 6)
    model.c.weight = model.a.weight
    plan = cut(model, {"c": index(0, 4), "b": index(1)}, consumers={"left": ["a", 3, "b"], "right": ["b", "a"]})
    assert plan.tables["c"].tied == ("a",)
    assert plan.columns["left"].tolist() == [0, 4, 6, 7, 8, 10]
    assert model(*inputs()).shape == (32, 1)
