"""A pruner of another paper in an Accelerate loop: saved in the middle, it goes on as if it had not stopped."""

import pytest
import torch
from accelerate import Accelerator

from tamis.callbacks import attach
from tests.unit.dimreg_tools import batches, make
from tests.unit.rival_tools import QUICK, pruner_of

STEPS, STOP = 12, 7


def loop(name: str, folder, *, resume: bool):
    accelerator = Accelerator(cpu=True)
    network = make()
    pruner = pruner_of(name, network, steps=STEPS)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    attach(accelerator, pruner)
    model, optimizer = accelerator.prepare(network, optimizer)
    data, first = batches(2 * STEPS), 0
    if resume:
        accelerator.load_state(str(folder))
        first = pruner.steps_taken
        assert first == STOP
    for number in range(first, STEPS):
        optimizer.zero_grad()
        accelerator.backward(model(**data[number])["loss"] + pruner.penalty())
        optimizer.step()
        other = data[STEPS + number]
        pruner.step(**({"validation_loss": lambda other=other: network(**other)["loss"]} if pruner.validates else {}))
        if number + 1 == STOP and not resume:
            accelerator.save_state(str(folder))
    plan = pruner.prune(optimizer)
    accelerator.free_memory()
    return network, plan


@pytest.mark.filterwarnings("ignore::tamis.NoEffectWarning")
@pytest.mark.parametrize("name", QUICK)
def test_a_saved_run_goes_on_to_the_same_cut(name: str, tmp_path) -> None:
    whole, plan = loop(name, tmp_path, resume=False)
    again, other = loop(name, tmp_path, resume=True)
    assert plan.kept.keys() == other.kept.keys()
    one, two = whole.state_dict(), again.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
