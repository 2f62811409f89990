"""Budgets that count the stored type: never more than was given, nearly all of it, and better than any simple rule."""

import itertools

import pytest
import torch
from torch import nn

from tamis import NoEffectWarning
from tamis.pruners import DimReg, find_tables
from tamis.pruners.stored_budget import split_by_prices, stored_prices
from tests.unit.dimreg_tools import QUICK, STEPS, batches, make, train


def spent(keeps, prices):
    return sum(float(price[int(keep.sum())]) for keep, price in zip(keeps, prices, strict=True))


def test_prices_are_what_quantising_takes_or_float_where_that_is_less():
    model = nn.ModuleDict({"a": nn.Embedding(10, 4), "b": nn.Embedding(3, 2).half()})
    prices = stored_prices(find_tables(model), "int4")
    assert prices[0].tolist() == [0, 10 * 4, 10 * 5, 10 * 6, 10 * 6]  # one column stays float32
    assert prices[1].tolist() == [0, 3 * 2, 3 * 4]
    assert stored_prices(find_tables(model), "int8")[0].tolist() == [0, 40, 80, 110, 120]


def test_the_split_is_within_the_budget_and_close_to_the_best():
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        model = nn.ModuleDict({str(i): nn.Embedding(int(n), 4) for i, n in enumerate(
            torch.randint(2, 30, (3,), generator=generator))})  # fmt: skip
        prices = stored_prices(find_tables(model), "int4")
        scores = [torch.rand(4, generator=generator) for _ in range(3)]
        whole = sum(float(price[-1]) for price in prices)
        budget = whole * float(torch.rand((), generator=generator))
        keeps = split_by_prices(scores, prices, budget)
        assert spent(keeps, prices) <= budget
        worth = sum(float(score[keep].sum()) for score, keep in zip(scores, keeps, strict=True))
        for keep, score in zip(keeps, scores, strict=True):  # a table keeps its best columns
            assert not keep.any() or keep.all() or score[keep].min() >= score[~keep].max()
        sums = [[0.0, *score.sort(descending=True).values.cumsum(0).tolist()] for score in scores]
        best = max(
            sum(line[k] for line, k in zip(sums, counts, strict=True))
            for counts in itertools.product(range(5), repeat=3)
            if sum(float(price[k]) for price, k in zip(prices, counts, strict=True)) <= budget
        )
        assert worth >= 0.7 * best


def test_a_column_that_may_not_be_kept_is_not():
    prices = stored_prices(find_tables(nn.ModuleDict({"a": nn.Embedding(10, 4)})), "int4")
    (keep,) = split_by_prices([torch.tensor([1.0, -torch.inf, 0.5, -torch.inf])], prices, 1e9)
    assert keep.tolist() == [True, False, True, False]


@pytest.mark.parametrize("stored", ["int8", "int4", "int2"])
def test_dimreg_meets_a_budget_of_stored_bytes(stored):
    model = make()
    full = sum(table.weight.nbytes for table in model.embeddings.values())
    pruner = DimReg(model, size=0.15, config=QUICK, total_steps=STEPS, quantize=stored)
    prices = dict(zip(("user", "item"), stored_prices(pruner.tables, stored), strict=False))
    train(model, pruner, batches())
    plan = pruner.prune(force=True)
    left = sum(map(plan.bytes_after, plan.tables))
    assert 0 < left <= 0.15 * full
    for field, price in prices.items():  # nothing more would fit
        kept = len(plan.kept[f"embeddings.{field}"])
        assert left + float(price[kept + 1 :].min() if kept < 8 else full) - float(price[kept]) > 0.15 * full
    in_float = DimReg(make(), size=0.15, config=QUICK, total_steps=STEPS)
    assert sum(map(plan.bytes_pruned, plan.tables)) >= left
    assert in_float.rule.target == pytest.approx(0.15)
    assert pruner.rule.target > 0.15  # of what the whole would take when stored


def test_a_state_resumes_only_with_the_same_stored_type():
    pruner = DimReg(make(), size=0.15, total_steps=STEPS, quantize="int4")
    state = pruner.state_dict()
    DimReg(make(), size=0.15, total_steps=STEPS, quantize="int4").load_state_dict(state)
    with pytest.raises(ValueError, match="quantize=int4"):
        DimReg(make(), size=0.15, total_steps=STEPS, quantize="int8").load_state_dict(state)
    older = {**state, "settings": {k: v for k, v in state["settings"].items() if k != "quantize"}}
    DimReg(make(), size=0.15, total_steps=STEPS).load_state_dict(older)


def test_a_budget_that_holds_everything_in_the_stored_type_says_so():
    with pytest.warns(NoEffectWarning, match=r"size=0\.4 holds every dimension"):
        DimReg(make(), size=0.4, quantize="int4")
    with pytest.raises(ValueError, match="quantize='int1': must be one of"):
        DimReg(make(), size=0.4, quantize="int1")
