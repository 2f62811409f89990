"""DNIS through Trainer where things get hard: losses of the user's own, the best model from before the decision."""

import pytest
import torch
from torch.utils.data import Subset
from transformers import PrinterCallback, Trainer

from tamis.callbacks import attach
from tamis.core.errors import TamisError
from tamis.pruners import DNIS, DNISConfig
from tamis.testing.trainers import quiet_arguments
from tests.contract.factories import Clicks, make_deepfm

CONFIG = DNISConfig(blocks=2, alpha_lr=0.05, warm_up=0.1, decide_by=0.6)


class OwnLoss(Trainer):
    """Takes the labels out of the batch, as many trainers do."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs["logits"], labels.float())
        return (loss, outputs) if return_outputs else loss


def make(folder, kind=Trainer, config=CONFIG, validation=None, **options):
    model, data = make_deepfm(), Clicks()
    settings = quiet_arguments(folder, **{"per_device_train_batch_size": 2, "num_train_epochs": 2, **options})
    trainer = kind(model, settings, train_dataset=data, eval_dataset=data)
    trainer.remove_callback(PrinterCallback)
    rows = Subset(data, range(len(data))) if validation is None else data
    return trainer, attach(trainer, DNIS(model, 0.5, config=config), validation=rows)


@pytest.mark.parametrize("xi", [0.0, 0.01])
def test_a_loss_that_takes_the_labels_out_of_the_batch(tmp_path, xi):
    trainer, callback = make(tmp_path, OwnLoss, DNISConfig(blocks=2, warm_up=0.1, decide_by=0.6, xi=xi))
    trainer.train()
    assert callback.plan.byte_share <= 0.5


def test_the_training_data_themselves_are_refused(tmp_path):
    trainer, _ = make(tmp_path, validation="the same")
    with pytest.raises(TamisError, match="is the training data set itself"):
        trainer.train()


def test_a_best_model_from_before_the_decision_keeps_the_budget(tmp_path):
    class FirstIsBest(Trainer):
        def evaluate(self, *args, **kwargs):
            metrics = super().evaluate(*args, **kwargs)
            metrics["eval_loss"] = float(self.state.global_step)
            return metrics

    saving = dict(save_strategy="steps", eval_strategy="steps", save_steps=4, eval_steps=4, load_best_model_at_end=True)
    trainer, callback = make(tmp_path, FirstIsBest, **saving, metric_for_best_model="eval_loss")
    with pytest.warns(UserWarning, match="restored from before the cut was decided"):
        trainer.train()
    assert trainer.state.best_global_step == 4
    assert callback.plan.byte_share <= 0.5
