"""Models that tamis has never seen: two recommender libraries and transformers, cut, saved and read back."""

import copy
import io
import warnings
from contextlib import redirect_stdout

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

import tamis
from tamis import PolicyError
from tamis.pruners import NarrowEmbedding, cut
from tests.unit.cut_tools import batch, index, random_model, zeroed

ROWS = 64


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def spread(tables):
    """Weights of size one: these libraries start theirs so small that a wrong cut would hardly show."""
    for table in tables:
        nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(0))


# ---- recommender libraries


def deepctr(name):
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it looks for a newer release of itself
        warnings.simplefilter("ignore")
        from deepctr_torch import models
        from deepctr_torch.inputs import DenseFeat, SparseFeat

    columns = [SparseFeat("user", 30, embedding_dim=8), SparseFeat("item", 20, embedding_dim=8), DenseFeat("price", 2)]
    model = getattr(models, name)(columns, columns, dnn_hidden_units=(16,), device="cpu").eval()
    spread(model.embedding_dict.values())
    return model


def deepctr_inputs():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (ROWS, 2), generator=generator)
    return torch.cat([ids.float(), torch.randn(ROWS, 2, generator=generator)], dim=1)


@pytest.mark.parametrize(("name", "form"), [("WDL", "columns"), ("DeepFM", "scatter"), ("DCN", "scatter")])
def test_deepctr_torch(name, form, tmp_path):
    import safetensors.torch

    model, inputs = deepctr(name), deepctr_inputs()
    kept = {"embedding_dict.user": index(0, 3), "embedding_dict.item": index()}
    reference = zeroed(model, kept)
    words = r"model.regularization_weight still holds the old tensors of .*embedding_dict.user.weight"
    with pytest.warns(UserWarning, match=words):
        plan = cut(model, kept, example_inputs=inputs)
    assert {table.form for table in plan.tables.values()} == {form}
    assert ("dnn.linears.0" in plan.columns) is (form == "columns")
    assert_same(model(inputs), reference(inputs))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(deepctr(name), tmp_path)
    assert torch.equal(loaded(inputs), model(inputs))


def rechub():
    from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import WideDeep

    deep = [
        SparseFeature("user", 30, embed_dim=8),
        SparseFeature("item", 20, embed_dim=8),
        SequenceFeature("history", 20, embed_dim=8, pooling="mean", shared_with="item"),
    ]
    model = WideDeep([DenseFeature("price")], deep, mlp_params={"dims": [16], "dropout": 0.0})
    spread(model.embedding.embed_dict.values())
    return model


def test_torch_rechub_with_a_table_shared_by_an_item_and_a_history(tmp_path):
    import safetensors.torch

    generator = torch.Generator().manual_seed(1)
    inputs = {
        "user": torch.randint(0, 30, (ROWS,), generator=generator),
        "item": torch.randint(0, 20, (ROWS,), generator=generator),
        "history": torch.randint(0, 20, (ROWS, 5), generator=generator),
        "price": torch.randn(ROWS, generator=generator),
    }
    model = rechub()
    model(inputs)  # running statistics of its batch norm
    model.eval()
    kept = {"embedding.embed_dict.user": index(0, 3), "embedding.embed_dict.item": index(2, 5, 7)}
    reference = zeroed(model, kept)
    plan = cut(model, kept, example_inputs=(inputs,))
    assert {table.form for table in plan.tables.values()} == {"scatter"}  # it stacks fields before it flattens them
    assert_same(model(inputs), reference(inputs))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(rechub().eval(), tmp_path)
    assert torch.equal(loaded(inputs), model(inputs))


# ---- transformers

SMALL = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CASES = {
    "bert": (
        BertForSequenceClassification,
        BertConfig(
            **SMALL, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32,
        ),
        "bert.embeddings.word_embeddings",
    ),
    "distilbert": (
        DistilBertForSequenceClassification,
        DistilBertConfig(**SMALL, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32),
        "distilbert.embeddings.word_embeddings",
    ),
    "gpt2, tied head": (
        GPT2LMHeadModel,
        GPT2Config(**SMALL, n_embd=16, n_layer=1, n_head=2, n_positions=32),
        "transformer.wte",
    ),
    "bart, tied encoder, decoder and head": (
        BartForConditionalGeneration,
        BartConfig(
            **SMALL, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32,
            decoder_start_token_id=2,
        ),
        "model.shared",
    ),
}  # fmt: skip
IDS = torch.randint(3, 100, (4, 9), generator=torch.Generator().manual_seed(2))
KEPT = index(0, 3, 7, 12)


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def zeroed_lookups(model, path):
    """A copy whose token embeddings are zero at the cut columns, but whose tied head is not."""
    reference = copy.deepcopy(model)
    weight, mask = reference.get_submodule(path).weight, torch.zeros(16)
    mask[KEPT] = 1
    for module in reference.modules():
        if isinstance(module, nn.Embedding) and module.weight is weight:
            module.register_forward_hook(lambda module, args, output: output * mask)
    return reference


@pytest.fixture(params=CASES)
def pruned(request):
    cls, config, path = CASES[request.param]
    model = cls(copy.deepcopy(config))
    reference = zeroed_lookups(model, path)
    plan = cut(model, {path: KEPT}, example_inputs={"input_ids": IDS})
    return model, reference, plan, path


def test_token_embeddings_keep_the_hidden_size(pruned):
    model, reference, plan, path = pruned
    assert plan.tables[path].form == "scatter"
    assert isinstance(model.get_input_embeddings(), NarrowEmbedding)
    assert model.get_input_embeddings().weight.shape == (100, 4)
    assert_same(logits(model), logits(reference))


@pytest.mark.parametrize("shard", ["5GB", "10KB"])
def test_save_pretrained_and_load_pruned_are_exact(pruned, shard, tmp_path):
    model, _, _, path = pruned
    cls, config, _ = next(case for case in CASES.values() if case[2] == path)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors").exists() is (shard == "5GB")
    for loaded in (tamis.load_pruned(cls, tmp_path), tamis.load_pruned(cls(copy.deepcopy(config)), tmp_path)):
        assert torch.equal(logits(loaded), logits(model))
    assert loaded.get_submodule(path).weight.shape == (100, 4)
    assert cls.config_class.from_pretrained(tmp_path).tamis == {path: {"kept": 4, "of": 16, "form": "scatter"}}


def test_the_precision_of_the_file_is_kept(tmp_path):
    cls, config, path = CASES["bert"]
    model = cls(copy.deepcopy(config)).to(torch.bfloat16)
    cut(model, {path: KEPT}, example_inputs={"input_ids": IDS})
    model.save_pretrained(tmp_path)
    loaded = tamis.load_pruned(AutoModelForSequenceClassification, tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(logits(loaded), logits(model))


def test_a_tied_head_keeps_its_tensor_and_the_config_says_so():
    cls, config, path = CASES["gpt2, tied head"]
    model = cls(copy.deepcopy(config))
    assert model.config.tie_word_embeddings
    head = model.lm_head.weight
    cut(model, {path: KEPT})
    assert model.lm_head.weight is head
    assert head.shape == (100, 16)
    assert not model.config.tie_word_embeddings


def test_an_unpruned_checkpoint_and_another_config_are_refused(tmp_path):
    cls, config, path = CASES["bert"]
    model = cls(copy.deepcopy(config))
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(PolicyError, match="hold no pruning plan"):
        tamis.load_pruned(cls, tmp_path / "plain")
    cut(model, {path: KEPT})
    model.save_pretrained(tmp_path / "cut")
    other = copy.deepcopy(config)
    other.vocab_size = 101
    with pytest.raises(PolicyError, match=r"has shape \[101, 16\] in this model, \[100, 16\] in the one"):
        tamis.load_pruned(cls(other), tmp_path / "cut")


# ---- Trainer


def test_trainer_saves_any_module_with_its_plan_and_trains_on(tmp_path):
    inputs = batch()
    rows = [{"features": f, "labels": y} for f, y in zip(inputs["features"], inputs["labels"], strict=True)]
    model = random_model("widedeep")
    args = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=16, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True, learning_rate=0.1,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.train()
    cut(model, {"embeddings.user": index(1, 4)}, example_inputs=inputs, optimizer=trainer.optimizer)
    before = model.embeddings["user"].weight.detach().clone()
    trainer.model_wrapped = trainer.model
    trainer.train()
    assert not torch.equal(model.embeddings["user"].weight, before)
    trainer.save_model(tmp_path / "out")
    loaded = tamis.load_pruned(random_model("widedeep"), tmp_path / "out").eval()
    assert torch.equal(loaded(**inputs)["logits"], model.eval()(**inputs)["logits"])
