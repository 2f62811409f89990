"""The optimizer goes on where it was: after the cut it does what it would have done to the columns that are left."""

import copy

import pytest
import torch
from torch import nn

from tamis.pruners import cut
from tests.unit.cut_tools import batch, index, random_model, zero_columns

KEPT = {"embeddings.user": index(1, 4, 5), "embeddings.item": index()}
DENSE = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.5),
}
SPARSE = {
    "SparseAdam": lambda p: torch.optim.SparseAdam(p, lr=0.05),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
}


def train(model, optimizers, steps, masked=None):
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(**batch())["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
        for path, kept in (masked or {}).items():
            zero_columns(model.get_submodule(path).weight, kept)


def compare(make, name, sparse):
    """Train, cut, train on; beside it the wide model whose cut columns are set to zero after each step."""
    model = random_model(name, sparse=sparse)
    tables = [p for n, p in model.named_parameters() if "mlp" not in n and p.dim() == 2]
    rest = [p for n, p in model.named_parameters() if "mlp" in n or p.dim() != 2]
    optimizers = [make(tables), torch.optim.Adam(rest, lr=0.05)]
    train(model, optimizers, 3)
    wide, wide_optimizers = copy.deepcopy((model, optimizers))
    for path, kept in KEPT.items():
        zero_columns(wide.get_submodule(path).weight, kept)
    plan = cut(model, KEPT, example_inputs=batch(), optimizer=optimizers)
    train(model, optimizers, 3)
    train(wide, wide_optimizers, 3, masked=KEPT)
    return model, wide, optimizers, plan


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("name", ["deepfm", "widedeep"])
@pytest.mark.parametrize(
    ("make", "sparse"),
    [*((make, False) for make in DENSE.values()), *((make, True) for make in SPARSE.values())],
    ids=[*DENSE, *(f"{name} sparse" for name in SPARSE)],
)
def test_training_goes_on_as_if_the_columns_had_been_zero(make, sparse, name):
    model, wide, optimizers, plan = compare(make, name, sparse)
    assert plan.tables["embeddings.user"].form == ("columns" if name == "widedeep" else "scatter")
    for path, kept in KEPT.items():
        found, wanted = model.get_submodule(path).weight, wide.get_submodule(path).weight[:, kept]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    if plan.columns:
        left = plan.columns["mlp.0"]
        torch.testing.assert_close(model.mlp[0].weight, wide.mlp[0].weight[:, left], rtol=1e-4, atol=1e-5)
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for optimizer in optimizers for p in optimizer.state} <= held


def test_state_is_sliced_and_group_options_stay():
    model = random_model("widedeep")
    optimizer = torch.optim.Adam(
        [{"params": list(model.embeddings.parameters()), "lr": 0.5}, {"params": list(model.mlp.parameters())}], lr=0.1
    )
    train(model, [optimizer], 2)
    before = {name: value.clone() for name, value in optimizer.state[model.embeddings["user"].weight].items()}
    cut(model, KEPT, example_inputs=batch(), optimizer=optimizer)
    after = optimizer.state[model.embeddings["user"].weight]
    assert after["step"] == before["step"] == 2
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(after[name], before[name][:, [1, 4, 5]])
        assert after[name].is_contiguous()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 6]


def test_a_state_dict_taken_after_the_cut_loads_again():
    model = random_model("fm")
    optimizer = torch.optim.Adam(model.parameters())
    train(model, [optimizer], 1)
    cut(model, KEPT, optimizer=optimizer)
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(optimizer.state_dict())
    for parameter in model.parameters():
        for name, value in optimizer.state[parameter].items():
            assert torch.equal(other.state[parameter][name], value)


def test_factored_state_is_cut_where_it_has_columns():
    model = random_model("fm")
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.05)
    train(model, [optimizer], 1)
    rows = optimizer.state[model.embeddings["user"].weight]["row_var"].clone()
    cut(model, {"embeddings.user": index(1, 4, 5)}, optimizer=optimizer)
    state = optimizer.state[model.embeddings["user"].weight]
    assert torch.equal(state["row_var"], rows)
    assert state["col_var"].shape == (1, 3)
    train(model, [optimizer], 1)


def test_a_frozen_table_stays_frozen_and_out_of_the_optimizer():
    model = random_model("fm")
    model.embeddings["user"].weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    count = len(optimizer.param_groups[0]["params"])
    cut(model, KEPT, optimizer=optimizer)
    assert not model.embeddings["user"].weight.requires_grad
    assert len(optimizer.param_groups[0]["params"]) == count


def test_the_wrapper_of_accelerate_is_opened():
    from accelerate import Accelerator

    model = random_model("fm")
    inner = torch.optim.Adam(model.parameters())
    wrapped = Accelerator(cpu=True).prepare(inner)
    assert wrapped is not inner
    cut(model, KEPT, optimizer=wrapped)
    assert {id(p) for p in inner.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


class Odd(torch.optim.SGD):
    """Keeps state that has nothing to do with the parameter's shape."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["blocks"] = torch.zeros(5)


def test_state_of_unknown_shape_is_refused_before_anything_changes():
    model = random_model("fm")
    optimizer = Odd(model.parameters(), lr=0.1)
    train(model, [optimizer], 1)
    with pytest.raises(ValueError, match=r"optimizer=Odd: state 'blocks' has shape \[5\], which does not follow"):
        cut(model, KEPT, optimizer=optimizer)
    assert type(model.embeddings["user"]) is nn.Embedding
    with pytest.raises(TypeError, match="optimizer=str: must be"):
        cut(model, KEPT, optimizer="adam")
