"""Pruners of other papers at the ends of their ranges: everything kept, nothing learned, no bytes saved."""

import logging

import pytest
import torch

from tamis.callbacks import attach
from tamis.core.errors import NoEffectWarning, NotPolarisedError
from tamis.pruners import MDE, PEP, SSEDS, AutoField, AutoFieldConfig, DeepLight, PEPConfig, SSEDSConfig
from tamis.testing.pruners import _trainer, _validation
from tests.unit.dimreg_tools import batches, make
from tests.unit.rival_tools import run


def test_an_mde_that_holds_everything_gives_a_plan_that_cuts_nothing() -> None:
    with pytest.warns(NoEffectWarning, match="holds every width"):
        pruner = MDE(make(), size=1.0)
    assert pruner.prune().byte_share == 1.0
    assert pruner.report.fields[0].kept == 8


def test_an_mde_that_is_quantised_takes_every_table_and_no_optimizer() -> None:
    model = make()
    pruner = MDE(model, size=0.7)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match="which as int4 cannot be trained"):
        pruner.prune(optimizer, quantize="int4")
    plan = pruner.prune(quantize="int4", example_inputs=batches(1)[0])
    assert plan.tables.keys() == {table.paths[0] for table in pruner.tables}
    assert any(table.form == "whole" for table in plan.tables.values())
    assert pruner.report.rounding_change > 0


def test_an_mde_prepares_another_model_with_the_same_projections() -> None:
    model = make()
    pruner = MDE(model, size=0.3)
    assert pruner.decided
    assert pruner.budget_total() == pytest.approx(0.3 * 105 * 8 * 4)
    other = pruner.restart(make())
    for path in pruner.plan.tables:
        assert torch.equal(other.get_submodule(path).projection, model.get_submodule(path).projection)
    with pytest.raises(ValueError, match=r"size=0\.01: holds 34, and one dimension for each table"):
        MDE(make(), size=0.01)


def test_auto_field_keeps_a_share_of_the_fields_whatever_their_sizes() -> None:
    pruner = AutoField(make(), config=AutoFieldConfig(fields=0.67, lr=0.05), total_steps=6)
    with torch.no_grad():
        pruner.factor_gates()[0].value[1] += 3.0  # of the largest table, which is more than half of the bytes
    run(pruner, 6)
    plan = pruner.prune()
    assert [len(plan.kept[table.paths[0]]) for table in pruner.tables].count(8) == 2
    assert len(plan.kept["embeddings.user"]) == 8
    with pytest.warns(NoEffectWarning, match=r"holds less than the whole of embeddings\.user, so that they go"):
        AutoField(make(), size=0.5)


@pytest.mark.filterwarnings("ignore:PEP. the thresholds have pruned nothing")
@pytest.mark.parametrize("kind", [PEP, DeepLight])
def test_values_that_cost_more_than_columns_stay_columns(kind: type) -> None:
    config = {"config": PEPConfig(lr=1e-6)} if kind is PEP else {}
    pruner = kind(make(), keep=0.9, total_steps=20, **config)
    run(pruner, 20)
    with pytest.warns(NoEffectWarning, match="every column of every table is kept"):
        plan = pruner.prune()
    assert plan.byte_share <= 1
    assert "zeros inside" in str(pruner.report)
    assert sum(int((table.weight == 0).sum()) for table in pruner.tables) >= 80


def test_sseds_says_how_to_go_on_after_a_training_that_ended_early() -> None:
    pruner = SSEDS(make(), size=0.5, config=SSEDSConfig(batches=2, decide_by=0.5), total_steps=40)
    run(pruner, 5)
    with pytest.raises(NotPolarisedError, match=r"step 5 was the last.*pruner\.begin\(14\).* 2 step\(s\) more"):
        pruner.prune()
    pruner.begin(14)
    run(pruner, 2)
    assert pruner.decided
    assert pruner.prune().byte_share <= 0.5


@pytest.mark.filterwarnings("ignore:.*same score|.*width is as likely|.*alpha is where:tamis.NoEffectWarning")
def test_a_trainer_says_that_the_cut_model_is_to_be_trained_again(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("tamis"), "disabled", False)  # other packages' set-ups disable what they find
    trainer, _, pruner = _trainer("tests.contract.factories:make_autodim", str(tmp_path))
    callback = attach(trainer, pruner, **_validation(pruner, trainer))
    with caplog.at_level("WARNING", "tamis"):
        trainer.train()
    assert "not yet what AutoDim is about, it trains again: small = pruner.restart" in caplog.text
    assert callback.plan is not None


@pytest.mark.filterwarnings("ignore:.*same score:tamis.NoEffectWarning")
def test_a_cut_that_is_refused_at_the_end_does_not_lose_the_training(tmp_path) -> None:
    trainer, model, pruner = _trainer("tests.contract.factories:make_l1gates", str(tmp_path))
    callback = attach(trainer, pruner, consumers={"nowhere": ["user"]})
    with pytest.warns(NoEffectWarning, match=r"nothing was cut: .*nowhere.*; the trained model is whole"):
        trainer.train()
    assert callback.plan is None
    trainer.save_model(str(tmp_path / "whole"))
    assert pruner.prune() is not None
    assert model is trainer.model
