"""prune(quantize=), the callback, transformers models: a trained model becomes small twice, and says so."""

import copy

import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import tamis
from tamis.callbacks import PruningCallback, attach
from tamis.pruners import DNIS, DimReg, PruningPlan, Selection, cut, quantize_embeddings
from tamis.pruners.surgery.quantized import Quantized
from tamis.testing.trainers import quiet_arguments
from tests.contract.factories import make_deepfm, make_dimreg
from tests.unit.cut_tools import index, random_model
from tests.unit.dimreg_tools import STEPS, batches, make, trained


def test_prune_and_quantize_in_one_call(tmp_path):
    model, pruner, _ = trained(keep=0.5)
    inputs = batches()[0]
    plan = pruner.prune(quantize="int4", example_inputs=inputs)
    assert plan.stored
    assert set(plan.stored.values()) == {"int4"}
    assert PruningPlan.read_from(model.tamis_plan) == plan
    report, text = pruner.report, str(pruner.report)
    assert report.bytes_before > report.bytes_pruned > report.bytes_after == sum(map(plan.bytes_after, plan.tables))
    for word in ("bytes before", "bytes pruned", "bytes stored", "int4", "after pruning", "by quantising"):
        assert word in text
    assert f"{report.bytes_pruned:,}" in text
    assert report.output_change < 1e-4 < report.rounding_change < 0.5
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(make(), tmp_path).eval()
    assert torch.equal(loaded(**inputs)["logits"], model.eval()(**inputs)["logits"])


def test_prune_without_quantize_reports_as_before():
    _, pruner, optimizer = trained()
    plan = pruner.prune(optimizer)
    assert plan.stored == {}
    assert pruner.report.bytes_pruned == pruner.report.bytes_after
    assert "bytes stored" not in str(pruner.report)
    assert "float" not in str(pruner.report)


def test_what_cannot_be_quantised_is_refused_before_the_cut():
    model, pruner, optimizer = trained(keep=0.75)
    with pytest.raises(ValueError, match=r"optimizer=Adam: trains the table 'embeddings\.user', which as int4 cannot"):
        pruner.prune(optimizer, quantize="int4")
    with pytest.raises(ValueError, match="quantize='int16': must be one of"):
        pruner.prune(quantize="int16")
    with torch.no_grad():
        model.embeddings["item"].weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"'embeddings\.item' holds numbers up to 1e\+06.*use int8"):
        pruner.prune(quantize="int4", force=True)
    assert hasattr(model.embeddings["user"], "gate")  # nothing was changed
    assert pruner.report is None
    assert set(pruner.prune(quantize="int8", force=True).stored.values()) <= {"int8"}


def test_blocks_of_dnis_are_quantised(tmp_path):
    model = make()
    data = batches()
    pruner = DNIS(model, size=0.5, total_steps=STEPS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for inputs in data:
        optimizer.zero_grad()
        model(**inputs)["loss"].backward()
        optimizer.step()
        pruner.step(validation_loss=lambda: model(**data[0])["loss"])
    plan = pruner.prune(quantize="int8", force=True)
    assert "blocks" in {plan.tables[path].form for path in plan.stored}
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(make(), tmp_path).eval()
    assert torch.equal(loaded(**data[0])["logits"], model.eval()(**data[0])["logits"])


@pytest.mark.parametrize("attached", [False, True])
def test_the_callback_quantises_at_the_end(attached, tmp_path):
    from transformers import PrinterCallback, Trainer

    model, pruner, data = make_dimreg()
    settings = quiet_arguments(tmp_path, per_device_train_batch_size=2, num_train_epochs=2)
    trainer = Trainer(model, settings, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    if attached:
        callback = attach(trainer, pruner, quantize="int8")
    else:
        callback = PruningCallback(pruner, quantize="int8")
        trainer.add_callback(callback)
    trainer.train()
    assert callback.plan.stored
    assert any(isinstance(module, Quantized) for module in model.modules())
    trainer.save_model(str(tmp_path / "out"))
    small = tamis.load_pruned(make_deepfm(), tmp_path / "out").eval()
    features = torch.stack([data[i]["features"] for i in range(4)])
    assert torch.equal(small(features)["logits"], model.eval()(features)["logits"])
    with pytest.raises(RuntimeError, match="stored as int8 and cannot be trained"):
        trainer.train()
    with pytest.raises(ValueError, match="quantize='int5': must be one of"):
        PruningCallback(make_dimreg()[1], quantize="int5")


def test_a_quantised_model_is_not_gated_or_cut_again():
    model = random_model("deepfm")
    quantize_embeddings(model, "int4")
    with pytest.raises(ValueError, match="is cut already"):
        cut(model, {"embeddings.user": index(0)})
    with pytest.raises(ValueError, match=r"must contain an nn\.Embedding"):
        DimReg(model)
    plan = quantize_embeddings(random_model("deepfm"), "int4")
    with pytest.raises(tamis.PolicyError, match=r"table 'embeddings\.user' is stored as int4; take a fresh"):
        plan.apply(model)


# ---- transformers

SMALL = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def test_a_transformer_is_saved_and_read_back(tmp_path):
    config = BertConfig(
        **SMALL, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    model = BertForSequenceClassification(copy.deepcopy(config)).eval()
    plan = quantize_embeddings(model, "int8")
    assert "bert.embeddings.word_embeddings" in plan.stored
    ids = torch.randint(3, 100, (4, 9))
    model.save_pretrained(tmp_path)
    loaded = tamis.load_pruned(BertForSequenceClassification, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_tied_head_keeps_its_float_table_and_that_is_said():
    model = GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()
    head = model.lm_head.weight
    with pytest.warns(UserWarning, match=r"transformer\.wte is shared with another layer"):
        quantize_embeddings(model, "int8", tables=["transformer.wte"])
    assert model.lm_head.weight is head
    assert not model.config.tie_word_embeddings
    assert model(input_ids=torch.randint(3, 100, (2, 5))).logits.shape == (2, 5, 100)


def test_a_list_that_still_holds_the_float_table_is_named():
    model = random_model("deepfm")
    model.penalised = [model.embeddings["user"].weight]
    with pytest.warns(UserWarning, match=r"model\.penalised still holds .*embeddings\.user\.weight, which quantising"):
        quantize_embeddings(model, "int4")


# ---- mended in the cut


def test_an_empty_selection_is_refused_with_its_cure():
    model = random_model("deepfm")
    with pytest.raises(ValueError, match=r"kept\['embeddings.user'\]=Selection\(\): names nothing.*Selection\.columns"):
        cut(model, {"embeddings.user": Selection()})
    cut(model, {"embeddings.user": Selection.columns(torch.zeros(0, dtype=torch.int64))})


def test_a_state_dict_in_place_of_a_path_is_named():
    with pytest.raises(TypeError, match=r"path=OrderedDict of \d+ entries: must be a path, not a state dict; save it"):
        tamis.load_pruned(random_model("deepfm"), random_model("deepfm").state_dict())
    with pytest.raises(TypeError, match="path=int: must be a path"):
        tamis.load_pruned(random_model("deepfm"), 3)


@pytest.mark.slow
def test_more_parts_than_int16_has(tmp_path):
    """32,769 patterns of 16 columns: the plan numbers parts in int32, in its file and in the model."""
    rows, width = 2**15 + 1, 17
    patterns = (torch.arange(1, rows + 1)[:, None] >> torch.arange(width)) & 1 > 0
    selection = Selection.blocks(torch.arange(rows), patterns)
    assert len(selection.parts) == rows
    fields = {"tables": {}, "kept": {}, "consumers": {}, "columns": {}}
    from tamis.pruners.surgery.plan import TableCut, selection_fields

    fields["tables"] = {"t": TableCut(rows=rows, dim=width, itemsize=4, form="blocks")}
    plan = PruningPlan(**fields | selection_fields({"t": selection}, fields["tables"]))
    assert plan.parts["t"].dtype == torch.int32
    model = nn.Linear(1, 1)
    plan.write_into(model)
    again = PruningPlan.read_from(model.tamis_plan)
    assert again == plan
    assert int(again.parts["t"].max()) == rows - 1
    plan.save(tmp_path)
    assert tamis.load_policy(tmp_path) == plan
