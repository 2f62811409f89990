"""Gates on embeddings: what they compute, and what stays as it was."""

import copy
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tamis.pruners import gates
from tamis.pruners.tables import Table, find_tables

LOGITS = torch.tensor([4.0, -3.0, 0.0, 1.0])


def gated(module: nn.Module) -> nn.Module:
    (table,) = find_tables(nn.Sequential(module))
    gates.install(table, gates.ColumnGate(LOGITS))
    return module


def test_rows_are_scaled_and_both_gradients_are_those_of_the_plain_product() -> None:
    plain = nn.Embedding(10, 4, padding_idx=2)
    module = gated(copy.deepcopy(plain))
    ids = torch.tensor([[1, 2, 1], [9, 0, 3]])
    alpha = LOGITS.clone().requires_grad_()
    wanted = plain(ids) * torch.sigmoid(alpha)
    found = module(ids)
    assert torch.equal(found, wanted)
    head = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    (wanted * head).sum().backward()
    (found * head).sum().backward()
    assert torch.allclose(module.gate.logits.grad, alpha.grad, atol=1e-6)
    assert torch.allclose(module.weight.grad, plain.weight.grad, atol=1e-7)
    assert not module.weight.grad[2].any()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_is_scaled_after_pooling(mode: str) -> None:
    plain = nn.EmbeddingBag(10, 4, mode=mode, padding_idx=0)
    module = gated(copy.deepcopy(plain))
    ids, offsets = torch.tensor([1, 2, 0, 9, 3]), torch.tensor([0, 3])
    assert torch.allclose(module(ids, offsets), plain(ids, offsets) * torch.sigmoid(LOGITS))
    weighted = F.embedding_bag(ids, plain.weight * torch.sigmoid(LOGITS), offsets, mode=mode, padding_idx=0)
    assert torch.allclose(module(ids, offsets), weighted, atol=1e-7)


def test_a_bag_takes_sample_weights() -> None:
    plain = nn.EmbeddingBag(10, 4, mode="sum")
    module = gated(copy.deepcopy(plain))
    ids, weights = torch.tensor([[1, 2], [3, 3]]), torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    wanted = plain(ids, per_sample_weights=weights) * torch.sigmoid(LOGITS)
    assert torch.allclose(module(ids, per_sample_weights=weights), wanted)


def test_sparse_gradients_stay_sparse() -> None:
    module = gated(nn.Embedding(10, 4, sparse=True))
    module(torch.tensor([1, 1, 7])).sum().backward()
    assert module.weight.grad.is_sparse
    assert torch.allclose(module.weight.grad.to_dense()[1], 2 * torch.sigmoid(LOGITS))


def test_it_is_still_the_same_module_with_the_same_weight_and_name() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 1))
    weight, module = model[0].weight, model[0]
    gated(module)
    assert model[0] is module
    assert isinstance(module, nn.Embedding)
    assert module.weight is weight
    assert set(model.state_dict()) == {"0.weight", "0.gate.logits", "0.counts", "1.weight", "1.bias"}
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "1.weight", "1.bias"]


def test_removing_gives_the_plain_module_back() -> None:
    module = nn.Embedding(10, 4)
    before = set(vars(module))
    (table,) = find_tables(nn.Sequential(module))
    gates.install(table, gates.ColumnGate(LOGITS))
    gates.remove(table)
    assert type(module) is nn.Embedding
    assert set(vars(module)) == before
    assert set(module.state_dict()) == {"weight"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_move_keeps_the_gate_a_float32_leaf(dtype: torch.dtype) -> None:
    model = nn.Sequential(gated(nn.Embedding(10, 4))).to(dtype)
    gate = model[0].gate.logits
    assert (gate.dtype, gate.is_leaf, gate.requires_grad) == (torch.float32, True, True)
    assert torch.equal(gate, LOGITS)
    rows = model(torch.tensor([3]))
    assert rows.dtype == dtype
    rows.sum().backward()
    assert gate.grad is not None


def test_a_copy_has_a_gate_of_its_own() -> None:
    module = gated(nn.Embedding(10, 4))
    other = copy.deepcopy(module)
    other(torch.tensor([1])).sum().backward()
    assert module.gate.logits.grad is None
    with torch.no_grad():
        other.gate.logits.zero_()
    assert torch.equal(module.gate.logits, LOGITS)


def test_it_can_be_sent_to_another_process() -> None:
    module = gated(nn.Embedding(10, 4))
    other = ForkingPickler.loads(ForkingPickler.dumps(module))
    assert type(other) is gates.GatedEmbedding
    assert torch.equal(other.gate.logits, LOGITS)
    assert other.gate.logits.requires_grad


@pytest.mark.parametrize("assign", [False, True])
def test_a_loaded_gate_still_learns(assign: bool) -> None:
    source, target = gated(nn.Embedding(10, 4)), gated(nn.Embedding(10, 4))
    with torch.no_grad():
        source.gate.logits.add_(1)
    leaf = target.gate.logits
    target.load_state_dict(source.state_dict(), assign=assign)
    assert torch.equal(target.gate.logits, LOGITS + 1)
    assert target.gate.logits.requires_grad
    assert target.gate.logits.is_leaf
    assert (target.gate.logits is leaf) != assign


def test_lookups_are_counted_only_when_told_and_only_in_training() -> None:
    module = gated(nn.Embedding(5, 4, padding_idx=0))
    (table,) = [Table("t", ["0"], [module])]
    ids = torch.tensor([[1, 1], [0, 4]])
    module(ids)
    assert table.lookups() is None
    module.counting = True
    module.eval()(ids)
    assert table.lookups() is None
    module.train()(ids)
    assert table.lookups() is None  # not before the step is over
    table.merge_lookups()
    assert module.counts.tolist() == [1, 2, 0, 0, 1]
    assert table.lookups().tolist() == [0, 2, 0, 0, 1]  # the padding row weighs nothing


def test_one_module_at_two_paths_is_one_table() -> None:
    shared = nn.Embedding(10, 4)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.Embedding(3, 4)})
    first, second = find_tables(model)
    assert (first.field, first.paths, len(first.modules)) == ("a", ["a", "b"], 1)
    assert second.field == "c"


def test_two_modules_with_one_weight_are_one_table() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(10, 4), "b": nn.Embedding(10, 4)})
    model["b"].weight = model["a"].weight
    (table,) = find_tables(model)
    assert table.modules == [model["a"], model["b"]]


def test_tables_of_width_one_are_left_alone_unless_named() -> None:
    model = nn.ModuleDict({"wide": nn.Embedding(10, 4), "linear": nn.Embedding(10, 1)})
    assert [table.field for table in find_tables(model)] == ["wide"]
    assert [table.field for table in find_tables(model, {"x": "linear"})] == ["x"]


def test_tables_without_rows_or_with_max_norm_are_left_alone() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(0, 4), "b": nn.Embedding(9, 4, max_norm=1.0), "c": nn.Embedding(9, 4)})
    assert [table.field for table in find_tables(model)] == ["c"]


def test_a_weight_that_one_module_of_two_renormalises_is_left_alone() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(9, 4), "b": nn.Embedding(9, 4, max_norm=1.0), "c": nn.Embedding(9, 4)})
    model["b"].weight = model["a"].weight
    assert [table.field for table in find_tables(model)] == ["c"]


def test_lookups_stop_at_the_largest_number_that_fits() -> None:
    module = gated(nn.Embedding(3, 4))
    table = Table("t", ["0"], [module])
    largest = torch.iinfo(torch.int32).max
    module.counts[1] = largest - 1
    module.counting = True
    module(torch.tensor([1, 1, 1, 2]))
    table.merge_lookups()
    assert module.counts.tolist() == [0, largest, 1]
    assert bool((table.lookups() >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gate_of_a_half_precision_table_hears_of_small_gradients(dtype: torch.dtype) -> None:
    module = gated(nn.Embedding.from_pretrained(torch.full((10, 4), 2.0**-12), freeze=False)).to(dtype)
    head = torch.full((1, 4), 2.0**-14, dtype=dtype)  # the product 2**-26 is 0 in float16
    (module(torch.tensor([1])) * head).sum().backward()
    slope = torch.sigmoid(LOGITS) * torch.sigmoid(-LOGITS)
    assert torch.allclose(module.gate.logits.grad, 2.0**-26 * slope, rtol=1e-2, atol=0)


class Doubled(nn.Embedding):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("model", "tables", "error", "words"),
    [
        (
            nn.Linear(2, 2).state_dict(),
            None,
            TypeError,
            r"model=OrderedDict.*: must be a model.*build it first.*got OrderedDict",
        ),
        (nn.Embedding, None, TypeError, r"Embedding.*must be a model.*build it first.*got type"),
        (nn.Linear(2, 2), None, ValueError, "must contain an nn.Embedding"),
        (nn.Sequential(nn.Embedding(9, 1)), None, ValueError, "at least two dimensions"),
        (nn.Sequential(gated(nn.Embedding(9, 4))), None, ValueError, r"its tables \(0\) are gated already"),
        (nn.Sequential(nn.Embedding(9, 4)), {}, ValueError, "must name at least one table"),
        (nn.Sequential(nn.Embedding(9, 4)), {"user": "1"}, ValueError, "no such module; the model's embeddings are 0"),
        (nn.Sequential(nn.Embedding(9, 4), nn.ReLU()), {"user": "1"}, TypeError, "not a ReLU"),
        (nn.Sequential(Doubled(9, 4)), {"user": "0"}, TypeError, "a subclass has a forward of its own"),
        (nn.Sequential(nn.Embedding(9, 4)), {"a": "0", "b": "0"}, ValueError, "'a' and 'b' share one table"),
        (nn.Sequential(nn.Embedding(9, 4, max_norm=1.0)), {"a": "0"}, ValueError, "'a'.*'0'.* it has max_norm"),
        (nn.Sequential(nn.EmbeddingBag(9, 4, max_norm=1.0)), None, ValueError, "'0': it has max_norm"),
        (nn.Sequential(nn.Embedding(0, 4)), {"a": "0"}, ValueError, "'a'.*'0'.* it has no rows"),
        (nn.Sequential(nn.Embedding(0, 4)), None, ValueError, "'0': it has no rows"),
    ],
)
def test_bad_input(model: nn.Module, tables: dict[str, str] | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        find_tables(model, tables)


def test_changing_the_rows_in_place_is_refused_with_the_cure() -> None:
    module = gated(nn.Embedding(10, 4))
    rows = module(torch.tensor([1]))
    rows += 1
    with pytest.raises(RuntimeError, match=r"write x = x \+ y in place of x \+= y"):
        rows.sum().backward()


def test_a_frozen_table_still_trains_its_gate() -> None:
    module = gated(nn.Embedding(10, 4)).requires_grad_(False)
    module.gate.requires_grad_()
    weight = module.weight.clone()
    module(torch.tensor([1, 2])).sum().backward()
    slope = torch.sigmoid(LOGITS) * torch.sigmoid(-LOGITS)
    assert torch.allclose(module.gate.logits.grad, weight[1:3].sum(0) * slope, atol=1e-6)
