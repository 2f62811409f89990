"""Every pruner of another paper keeps the contract."""

import pytest

from tamis import load_pruned
from tamis.callbacks import attach
from tamis.testing import PrunerContract
from tamis.testing.pruners import _differences, _trainer
from tests.contract.factories import QUICK, make_deepfm

pytestmark = pytest.mark.filterwarnings("ignore::tamis.NoEffectWarning")  # twelve steps may leave every score equal


class Rival(PrunerContract):
    plain = "tests.contract.factories:make_deepfm"


class TestMDE(Rival):
    factory = "tests.contract.factories:make_mde"

    def test_the_cut_model_trains_and_loads_back(self, tmp_path) -> None:
        """It is small before the training, so that it is compared with the plain model."""
        whole = sum(parameter.numel() for parameter in make_deepfm().parameters())
        model, pruner, _ = self.make()
        assert sum(parameter.numel() for parameter in model.parameters()) < whole
        trainer, model, pruner = _trainer(self.factory, str(tmp_path / "run"))
        callback = attach(trainer, pruner)
        trainer.train()
        assert {path.rpartition(".")[2] for path in callback.plan.tables} <= {"user", "item", "day"}
        trainer.save_model(str(tmp_path / "small"))
        assert _differences(model, load_pruned(make_deepfm(), tmp_path / "small")) == []


for _name in QUICK:
    if _name != "MDE":
        globals()[f"Test{_name}"] = type(
            f"Test{_name}", (Rival,), {"factory": f"tests.contract.factories:make_{_name.lower()}"}
        )
