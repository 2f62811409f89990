"""What release 0.1 saved: models that it cut load, and a training with DimReg that it interrupted goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tamis.core import from_jsonable
from tamis.pruners import DimReg, PruningPlan, load_pruned
from tamis.pruners.surgery.plan import BUFFER
from tests.unit.dimreg_tools import QUICK, STEPS, batches, make, train

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_cut_model_of_schema_1_loads_and_computes_what_it_did() -> None:
    folder = GOLDEN / "cut_model" / "1"
    model = load_pruned(make(), folder).eval()
    wanted = json.loads((folder / "outputs.json").read_text())
    with torch.no_grad():
        found = model(**batches(2)[1])
    for name, values in wanted.items():
        assert found[name].flatten().tolist() == pytest.approx(torch.tensor(values).flatten().tolist(), abs=1e-6)
    raw = load_file(folder / "model.safetensors")[BUFFER]
    plan = PruningPlan.read_from(raw)
    assert json.loads(raw.numpy().tobytes())["schema"] == 1
    assert plan.keep_share == 0.25


@pytest.mark.parametrize("options", [{"keep": 0.25, "config": QUICK}, {}])
def test_an_interrupted_training_of_release_0_1_goes_on_to_the_same_gates(options: dict[str, Any]) -> None:
    folder = GOLDEN / "dimreg_checkpoint" / "1"
    model = make()
    pruner = DimReg(model, **options, total_steps=STEPS)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    pruner.load_state_dict(from_jsonable(json.loads((folder / "pruner.json").read_text())))
    train(model, pruner, batches()[20:], torch.optim.SGD(model.parameters(), lr=0.05))
    wanted = json.loads((folder / "gates_at_the_end.json").read_text())
    assert pruner.gates.tolist() == pytest.approx(wanted, abs=1e-6)
