"""Cuts of blocks and of single values: the model computes what it did with zeros, trains on, and loads back."""

import copy

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

import tamis
from tamis.pruners import BlockEmbedding, Part, PruningPlan, Selection, ValueEmbedding, cut, load_pruned
from tamis.pruners.surgery.plan import BUFFER
from tests.unit.dimreg_tools import batches, make

ROWS, WIDTH = 60, 8
TABLE = "embeddings.user"


def selection(form: str, seed: int = 0) -> Selection:
    generator = torch.Generator().manual_seed(seed)
    if form == "values":
        return Selection(mask=torch.rand(ROWS, WIDTH, generator=generator) < 0.3)
    block = torch.randint(4, (ROWS,), generator=generator)
    kept = torch.rand(4, WIDTH, generator=generator) < 0.4
    kept[3] = False  # the rows of the last block keep nothing
    return Selection.blocks(block, kept)


def zeroed(model: nn.Module, what: Selection) -> nn.Module:
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.embeddings["user"].weight.mul_(what.as_mask(ROWS, WIDTH))
    return model


@pytest.mark.parametrize("form", ["blocks", "values"])
def test_outputs_and_a_training_are_those_of_the_model_with_zeros(form: str) -> None:
    what, model = selection(form), make()
    wanted = zeroed(model, what)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    (model(**batches(1)[0])["loss"]).backward()
    optimizer.step()  # so that the optimizer has a state that follows the table
    wanted = zeroed(model, what)
    other = torch.optim.Adam(wanted.parameters(), lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.state[wanted.embeddings["user"].weight]["exp_avg"].mul_(what.as_mask(ROWS, WIDTH))
    plan = cut(model, {TABLE: what}, optimizer=optimizer)
    assert plan.tables[TABLE].form == form
    assert isinstance(model.embeddings["user"], {"blocks": BlockEmbedding, "values": ValueEmbedding}[form])
    mask = what.as_mask(ROWS, WIDTH)
    for batch in batches(5):
        found, truth = model(**batch), wanted(**batch)
        assert torch.allclose(found["logits"], truth["logits"], atol=1e-6)
        for net, steps in ((model, optimizer), (wanted, other)):
            steps.zero_grad()
            net(**batch)["loss"].backward()
            if net is wanted:
                net.embeddings["user"].weight.grad.mul_(mask)
            steps.step()


@pytest.mark.parametrize("form", ["blocks", "values"])
def test_it_is_saved_with_the_model_and_as_a_policy(form: str, tmp_path) -> None:
    what, model = selection(form), make()
    plan = cut(model, {TABLE: what})
    save_model(model, str(tmp_path / "model.safetensors"))
    again = load_pruned(make(), tmp_path)
    for batch in batches(2):
        assert torch.equal(again(**batch)["logits"], model(**batch)["logits"])
    plan.save(tmp_path / "plan")
    loaded = tamis.load_policy(tmp_path / "plan")
    assert loaded == plan == PruningPlan.read_from(getattr(model, BUFFER))
    assert torch.equal(loaded.selection(TABLE).as_mask(ROWS, WIDTH), what.as_mask(ROWS, WIDTH))


@pytest.mark.parametrize("form", ["blocks", "values"])
def test_the_plans_bytes_are_those_that_the_module_holds(form: str) -> None:
    what, model = selection(form), make()
    plan = cut(model, {TABLE: what})
    module = model.embeddings["user"]
    held = sum(p.numel() * p.element_size() for p in module.parameters())
    held += sum(b.numel() * b.element_size() for name, b in module.named_buffers() if not name.startswith("columns"))
    assert plan.bytes_after(TABLE) == held
    assert plan.kept_words(TABLE).endswith("/8")
    assert 0 < plan.keep_share < 1


@pytest.mark.parametrize("form", ["blocks", "values"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_puts_its_zeros_in_before_it_pools(form: str, mode: str) -> None:
    plain = nn.Sequential(nn.EmbeddingBag(ROWS, WIDTH, mode=mode, padding_idx=0))
    what, ids = selection(form), torch.tensor([[3, 0, 7], [0, 9, 9]])
    wanted = copy.deepcopy(plain)
    with torch.no_grad():
        wanted[0].weight.mul_(what.as_mask(ROWS, WIDTH))
    cut(plain, {"0": what})
    assert torch.allclose(plain(ids), wanted(ids), atol=1e-6)
    offsets = torch.tensor([0, 2])
    assert torch.allclose(plain[0](ids[0], offsets), wanted[0](ids[0], offsets), atol=1e-6)


def test_sparse_gradients_stay_sparse_in_blocks_and_are_refused_for_values() -> None:
    model = nn.Sequential(nn.Embedding(ROWS, WIDTH, sparse=True))
    with pytest.raises(ValueError, match="single values of a table with sparse=True"):
        cut(model, {"0": selection("values")})
    cut(model, {"0": selection("blocks")})
    model(torch.arange(20)).sum().backward()
    assert all(part.grad.is_sparse for part in model[0].parts if part.grad is not None)


def test_the_padding_row_is_not_trained() -> None:
    for form in ("blocks", "values"):
        model = nn.Sequential(nn.Embedding(ROWS, WIDTH, padding_idx=5))
        with torch.no_grad():
            model[0].weight[5] = 1.0
        cut(model, {"0": selection(form)})
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = model(torch.tensor([5])).detach().clone()
        model(torch.tensor([5, 6])).sum().backward()
        optimizer.step()
        assert torch.equal(model(torch.tensor([5])), before)


def test_blocks_that_all_keep_the_same_columns_are_columns() -> None:
    kept = torch.tensor([[True, False, True]] * 3)
    assert Selection.blocks(torch.tensor([0, 1, 2, 1]), kept).form == "columns"


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        (Selection(mask=torch.ones(3, 3, dtype=torch.bool)), ValueError, r"must have the table's shape \[60, 8\]"),
        (Selection(mask=torch.ones(ROWS, WIDTH)), TypeError, "must be bool"),
        (
            Selection((Part(torch.tensor([1, 2]), torch.tensor([0])), Part(torch.tensor([2]), torch.tensor([1])))),
            ValueError,
            r"parts\[1\]: holds rows of an earlier part",
        ),
        (Selection((Part(torch.tensor([99]), torch.tensor([0])),)), ValueError, r"rows=\[99\]: must lie in \[0, 60\)"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused_before_anything_changes(what, error, words) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        cut(model, {TABLE: what})
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
