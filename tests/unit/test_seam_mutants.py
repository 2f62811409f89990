"""Small changes to the seams that no other test would notice."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer

from tamis.callbacks import PruningCallback, attach
from tamis.testing.toys import IndexedDataset, ToyModel
from tamis.testing.trainers import quiet_arguments
from tests.contract.factories import make_dimreg
from tests.unit.test_callbacks import Epochs


def test_a_loss_scale_reaches_the_penalty_and_the_step(tmp_path, monkeypatch):
    model, pruner, _ = make_dimreg()
    pruner.begin(12)
    steps = []
    step = pruner.step
    monkeypatch.setattr(pruner, "step", lambda **options: (steps.append(options), step(**options)))
    callback = PruningCallback(pruner)
    optimizer = SimpleNamespace(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), step_was_skipped=False)
    arguments = quiet_arguments(tmp_path)
    (leaf,) = pruner.parameters()
    pruner.penalty().backward()
    plain, leaf.grad = leaf.grad.clone(), None
    callback.on_step_begin(arguments, None, None, optimizer=optimizer)
    assert torch.allclose(leaf.grad, 1024 * plain)
    callback.on_optimizer_step(arguments, None, None, optimizer=optimizer, model=model)
    assert [options["grad_scale"] for options in steps] == [1024.0]


@pytest.mark.parametrize("step", [1, 3, 4, 6])
def test_a_resumed_collator_is_told_the_epoch_that_is_running(tmp_path, step):
    def run(resume=None, **options):
        arguments = quiet_arguments(tmp_path, per_device_train_batch_size=2, num_train_epochs=3, **options)
        trainer = Trainer(ToyModel(), arguments, train_dataset=IndexedDataset(8), data_collator=Epochs())
        attach(trainer, trainer.data_collator)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.data_collator.seen

    whole = run(save_strategy="steps", save_steps=1)
    assert whole == [0] * 4 + [1] * 4 + [2] * 4
    assert run(f"{tmp_path}/checkpoint-{step}") == whole[step:]
