"""DimReg under DDP after the cut; run on each rank by test_dimreg_trainer.py."""

import tempfile

import torch
from transformers import PrinterCallback, Trainer

from tamis.callbacks import PruningCallback, attach
from tamis.core.distributed import gather_objects
from tamis.testing.trainers import quiet_arguments
from tests.contract.factories import make_dimreg


def trainer_after_cut(folder, attached):
    model, pruner, data = make_dimreg()
    settings = quiet_arguments(folder, per_device_train_batch_size=2, num_train_epochs=2)
    trainer = Trainer(model, settings, train_dataset=data, callbacks=[] if attached else [PruningCallback(pruner)])
    trainer.remove_callback(PrinterCallback)
    if attached:
        attach(trainer, pruner)
    trainer.train()
    return trainer


def second_training_with_attach():
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_after_cut(folder, attached=True)
        before = trainer.model.embeddings["user"].weight.detach().clone()
        trainer.train()
        weight = trainer.model.embeddings["user"].weight.detach()
    others = gather_objects(weight.tolist())
    return {"trained": not torch.equal(before, weight), "ranks_equal": others[0] == others[1], "numel": weight.numel()}


def second_training_with_stale_wrapper():
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_after_cut(folder, attached=False)
        try:
            trainer.train()
        except RuntimeError as error:
            return str(error)
    return "trained silently"
