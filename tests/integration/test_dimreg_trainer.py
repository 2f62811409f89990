"""DimReg through Trainer where things get hard: the best model, a second training, DDP, open gates, a transformer."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer

import tamis
from tamis import NoEffectWarning
from tamis.callbacks import PruningCallback, attach
from tamis.pruners import DimReg, DimRegConfig
from tamis.testing import run_distributed
from tamis.testing.trainers import quiet_arguments
from tests.contract.factories import Clicks, make_deepfm, make_dimreg


def make_trainer(folder, model, data, **options):
    settings = quiet_arguments(folder, **{"per_device_train_batch_size": 2, "num_train_epochs": 2, **options})
    trainer = Trainer(model, settings, train_dataset=data, eval_dataset=data)
    trainer.remove_callback(PrinterCallback)
    return trainer


def test_the_best_model_is_what_gets_cut(tmp_path):
    model, pruner, data = make_dimreg()
    options = dict(
        save_strategy="steps", eval_strategy="steps", save_steps=4, eval_steps=4, load_best_model_at_end=True
    )
    trainer = make_trainer(tmp_path, model, data, **options, metric_for_best_model="eval_loss")
    callback = attach(trainer, pruner)
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best is not None
    assert callback.plan is not None
    kept = callback.plan.kept["embeddings.user"]
    saved = load_file(f"{best}/model.safetensors")
    phi = torch.sigmoid(saved["embeddings.user.gate.logits"])
    torch.testing.assert_close(model.embeddings["user"].weight, (saved["embeddings.user.weight"] * phi)[:, kept])
    trainer.save_model(str(tmp_path / "out"))
    small = tamis.load_pruned(make_deepfm(), tmp_path / "out")
    batch = data[0]["features"][None]
    assert torch.equal(small.eval()(batch)["logits"], model.eval()(batch)["logits"])


def test_training_under_bf16_autocast_cuts_too(tmp_path):
    model, pruner, data = make_dimreg()
    dtypes = set()
    linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    linear.register_forward_hook(lambda layer, inputs, output: dtypes.add(output.dtype))
    trainer = make_trainer(tmp_path, model, data, bf16=True)
    callback = attach(trainer, pruner)
    trainer.train()
    assert torch.bfloat16 in dtypes
    assert callback.plan is not None
    assert model.embeddings["user"].weight.dtype == torch.float32
    assert len(callback.plan.kept["embeddings.user"]) == model.embeddings["user"].weight.shape[1]


def test_gates_left_open_cut_nothing_and_say_what_to_do(tmp_path):
    model, data = make_deepfm(), Clicks()
    config = DimRegConfig(decide_by=0.9, closing=1.0, warm_up=0.0)  # nothing can close within this training
    pruner = DimReg(model, keep=0.4, config=config)
    trainer = make_trainer(tmp_path, model, data)
    callback = attach(trainer, pruner)
    with pytest.warns(NoEffectWarning, match=r"nothing was cut: .*half open.*force=True"):
        trainer.train()
    assert callback.plan is None
    assert model.embeddings["user"].weight.shape[1] == 6
    plan = pruner.prune(force=True)
    assert sum(len(kept) for kept in plan.kept.values()) < 18


def test_a_nan_loss_stops_with_its_name(tmp_path):
    model, pruner, data = make_dimreg()
    data.labels = data.labels * float("nan")
    trainer = make_trainer(tmp_path, model, data)
    attach(trainer, pruner)
    with pytest.raises(FloatingPointError, match="loss was NaN"):
        trainer.train()


def test_token_embeddings_of_a_text_classifier(tmp_path):
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    model = BertForSequenceClassification(config)
    rows = [{"input_ids": torch.arange(5) + i, "labels": torch.tensor(i % 2)} for i in range(24)]
    path = "bert.embeddings.word_embeddings"
    pruner = DimReg(model, keep=0.5, tables={"words": path}, config=DimRegConfig(closing=0.2, decide_by=0.5))
    trainer = make_trainer(tmp_path, model, rows)
    trainer.add_callback(PruningCallback(pruner))
    trainer.train()
    assert model.get_submodule(path).weight.shape == (60, 8)
    assert pruner.report.output_change is not None
    trainer.save_model(str(tmp_path / "out"))
    again = tamis.load_pruned(BertForSequenceClassification, tmp_path / "out")
    ids = torch.arange(5)[None]
    assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_a_second_training_on_two_processes():
    for result in run_distributed("tests.distributed.dimreg:second_training_with_attach"):
        assert result["trained"]
        assert result["ranks_equal"]
    for message in run_distributed("tests.distributed.dimreg:second_training_with_stale_wrapper"):
        assert "was cut after DistributedDataParallel wrapped it" in message
