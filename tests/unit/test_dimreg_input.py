"""What DimReg says to bad input and to steps that are forgotten."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from tamis.pruners import DimReg, DimRegConfig
from tests.unit.dimreg_tools import batches, make, trained


def test_two_budgets() -> None:
    with pytest.raises(ValueError, match=r"keep=0\.2, budget_bytes=400: must not be given both"):
        DimReg(make(), keep=0.2, budget_bytes=400)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.5, float("nan")])
def test_keep_outside_its_range(keep: float) -> None:
    with pytest.raises(ValueError, match=r"keep=.*must be finite and in \(0, 1\]"):
        DimReg(make(), keep=keep)


@pytest.mark.parametrize(("keep", "share"), [(20, "0.2"), (1.5, "0.015")])
def test_a_percentage(keep: float, share: str) -> None:
    with pytest.raises(ValueError, match=rf"in \(0, 1\], a share; did you mean {share}\?"):
        DimReg(make(), keep=keep)


def test_tables_without_names() -> None:
    with pytest.raises(
        TypeError, match=r"tables=\['embeddings.user'\]: must be a dict of field name -> module path.*list"
    ):
        DimReg(make(), tables=["embeddings.user"])  # type: ignore[arg-type]


def test_a_budget_that_holds_nothing() -> None:
    with pytest.raises(
        ValueError, match=r"budget_bytes=19: must be >= 20, the bytes of one dimension of .* 'embeddings.colour'"
    ):
        DimReg(make(), budget_bytes=19)


def test_a_size_that_holds_nothing() -> None:
    with pytest.raises(ValueError, match=r"size=0.005: holds 17 bytes, less than one .*colour' \(20 bytes\)"):
        DimReg(make(), size=0.005)


@pytest.mark.parametrize("budget", [{"size": 0.1}, {"keep": 0.1}, {"budget_bytes": 419}])
def test_a_budget_that_leaves_a_table_with_nothing(budget: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=r"less than one dimension of each of the 3 tables \(.*=0\.12 would\)"):
        DimReg(make(), **budget)


def test_a_budget_without_a_name_is_the_old_one() -> None:
    with pytest.warns(FutureWarning, match=r"DimReg\(model, 0.3\) is deprecated: write keep=0.3.* or size="):
        assert str(DimReg(make(), 0.3).budget) == "keep=0.3"
    with pytest.raises(TypeError, match="name the budget"):
        DimReg(make(), 0.3, keep=0.2)


def test_a_state_dict() -> None:
    with pytest.raises(TypeError, match=r"model=OrderedDict.*must be a model.*load_state_dict into it"):
        DimReg(make().state_dict())  # type: ignore[arg-type]


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
