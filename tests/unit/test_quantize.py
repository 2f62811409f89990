"""Quantised tables: what is looked up is what a plain rounding gives, for every form, bag and dtype."""

import copy
import itertools
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

import tamis
from tamis import NoEffectWarning
from tamis.pruners import Selection, cut, quantize_embeddings
from tamis.pruners.surgery.packing import TYPES, pack_rows, row_bytes, unpack_rows
from tamis.pruners.surgery.plan import PruningPlan
from tamis.pruners.surgery.quantized import Quantized
from tests.unit.cut_tools import batch, index, random_model

WIDTHS = {"int8": 255, "int4": 15, "int2": 3}
stored_types = pytest.mark.parametrize("stored", TYPES)


def rounded(weight, stored):
    """The plain definition: per row the least value as bias, codes of equal steps up to the largest."""
    kind = torch.float32 if stored == "int8" else torch.float16
    weight = weight.float()
    bias = weight.amin(1, keepdim=True).to(kind).float()
    scale = ((weight.amax(1, keepdim=True) - bias) / WIDTHS[stored]).to(kind).float()
    scale = torch.where(scale != 0, scale, 1.0)
    return ((weight - bias) / scale).round().clamp(0, WIDTHS[stored]) * scale + bias


def close(found, wanted, step=None):
    """Equal up to float rounding; ties may round to the next code, so a few numbers may be a ``step`` away."""
    apart = (found - wanted).abs()
    assert float((apart > 1e-5).float().mean()) <= 0.01
    if step is not None:
        assert float(apart.max()) <= step


def table(rows=50, width=6, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@stored_types
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 32])
def test_rows_are_rounded_as_defined_and_take_the_bytes_that_are_counted(stored, width):
    bits, weight = TYPES[stored], table(width=width)
    packed = pack_rows(weight, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (50, row_bytes(width, bits))
    found = unpack_rows(packed, bits, width)
    close(found, rounded(weight, stored), step=4.5 / WIDTHS[stored] * 1.5)
    model = nn.ModuleDict({"t": nn.Embedding.from_pretrained(weight)})
    if row_bytes(width, bits) < 4 * width:
        quantize_embeddings(model, stored)
        ids = torch.tensor([[0, 49], [7, 7]])
        torch.testing.assert_close(model["t"].eval()(ids), found[ids], rtol=1e-6, atol=1e-6)


@stored_types
def test_zero_rows_and_constant_rows_stay_what_they_are(stored):
    weight = table()
    weight[3], weight[4] = 0.0, 0.5
    model = nn.ModuleDict({"t": nn.Embedding.from_pretrained(weight, padding_idx=3)})
    quantize_embeddings(model, stored)
    assert torch.equal(model["t"].eval()(index(3, 4)), torch.tensor([[0.0] * 6, [0.5] * 6]))


MODES = [("sum", False), ("sum", True), ("mean", False), ("max", False)]


@stored_types
@pytest.mark.parametrize(("mode", "weighted"), MODES)
@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("form", ["plain", "narrow", "blocks", "values"])
def test_bags_pool_what_single_lookups_give(stored, mode, weighted, padding, form):
    bag = nn.EmbeddingBag(50, 8, mode=mode, padding_idx=padding)
    model = nn.ModuleDict({"t": bag})
    cut_to(model, form)
    quantize_embeddings(model, stored)
    model.eval()
    reference = nn.EmbeddingBag.from_pretrained(dense(bag), mode=mode, padding_idx=padding)
    ids = torch.tensor([[2, 1, 0], [2, 2, 2], [49, 7, 2]])
    weights = torch.rand(3, 3) if weighted else None
    torch.testing.assert_close(bag(ids, per_sample_weights=weights), reference(ids, per_sample_weights=weights))
    flat, offsets = torch.tensor([2, 4, 2, 5, 6]), torch.tensor([0, 3, 3])
    weights = torch.rand(5) if weighted else None
    wanted = reference(flat, offsets, per_sample_weights=weights)
    torch.testing.assert_close(bag(flat, offsets, per_sample_weights=weights), wanted)
    found = bag(flat.int(), offsets.int(), per_sample_weights=weights)
    torch.testing.assert_close(found, wanted)
    if weighted:  # a column of a larger tensor has gaps in memory
        column = torch.rand(5, 4)[:, 1]
        wanted = reference(flat, offsets, per_sample_weights=column)
        torch.testing.assert_close(bag(flat, offsets, per_sample_weights=column), wanted)
    bag.include_last_offset = reference.include_last_offset = True
    offsets = torch.tensor([0, 3, 3, 5])
    wanted = reference(flat, offsets, per_sample_weights=weights)
    torch.testing.assert_close(bag(flat, offsets, per_sample_weights=weights), wanted)


@pytest.mark.parametrize("stored", TYPES)
def test_weights_of_a_bag_can_be_learned(stored):
    bag = nn.EmbeddingBag(50, 8, mode="sum")
    quantize_embeddings(nn.ModuleDict({"t": bag}).eval(), stored)
    rows = dense(bag)
    weights = torch.rand(2, 3, requires_grad=True)
    bag(torch.tensor([[2, 1, 0], [4, 4, 2]]), per_sample_weights=weights).square().sum().backward()
    other = weights.detach().clone().requires_grad_()
    (rows[torch.tensor([[2, 1, 0], [4, 4, 2]])] * other[..., None]).sum(1).square().sum().backward()
    torch.testing.assert_close(weights.grad, other.grad)


def cut_to(model, form):
    """Cut the only table, [50, 8], to a form."""
    if form == "narrow":
        cut(model, {"t": index(1, 4, 6)})
    elif form == "blocks":
        kept = torch.zeros(3, 8, dtype=torch.bool)
        kept[0], kept[1, 2:7] = True, True  # the third block keeps nothing
        block = torch.arange(50) % 3
        cut(model, {"t": Selection.blocks(block, kept)})
    elif form == "values":
        mask = torch.rand(50, 8, generator=torch.Generator().manual_seed(5)) < 0.6
        mask[7] = False
        cut(model, {"t": Selection(mask=mask)})


def dense(bag):
    """All rows [50, 8], one bag each."""
    old, bag.padding_idx = bag.padding_idx, None
    rows = bag(torch.arange(50)[:, None])
    bag.padding_idx = old
    return rows


FORMS = ["plain", "narrow", "blocks", "values"]


@stored_types
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_form_gives_rounded_rows_in_the_dtype_it_had(stored, form, dtype):
    model = nn.ModuleDict({"t": nn.Embedding(50, 8)}).to(dtype)
    cut_to(model, form)
    wide = model["t"](torch.arange(50)).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # 8 half numbers take as much as int8 with its scales
        plan = quantize_embeddings(model, stored)
    model.eval()
    if plan.stored:
        found = model["t"](torch.arange(50))
        assert found.dtype == dtype
        assert torch.equal(found == 0, (found == 0) | (wide == 0))
        step = 5 / WIDTHS[stored]
        assert float((found - wide).abs().max()) <= step
        assert float((found - wide).abs().max()) > 0
        assert torch.equal(model["t"](torch.tensor([[3]])), found[3][None, None])
    else:
        assert dtype.itemsize == 2


@stored_types
@pytest.mark.parametrize("form", FORMS)
def test_the_counted_bytes_are_those_of_the_tensors(stored, form):
    model = nn.ModuleDict({"t": nn.Embedding(50, 8)})
    cut_to(model, form)
    plan = quantize_embeddings(model, stored)
    saved = {name: tensor for name, tensor in model.state_dict().items() if name != "tamis_plan"}
    assert all(tensor.dtype == torch.uint8 for tensor in saved.values())
    index_of = sum(getattr(model["t"], name).nbytes for name in ("place", "column", "start") if name in dict(
        model["t"].named_buffers()))  # fmt: skip
    assert sum(tensor.nbytes for tensor in saved.values()) + index_of == plan.bytes_after("t")
    assert plan.bytes_after("t") < plan.bytes_pruned("t") <= plan.bytes_before("t") + index_of
    assert plan.plan_bytes == model.state_dict()["tamis_plan"].nbytes
    assert f"{plan.plan_bytes:,} bytes" in plan.summary()


@stored_types
@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_comes_back_bit_for_bit(stored, form, tmp_path):
    def build():
        return nn.ModuleDict({"t": nn.Embedding(50, 8), "head": nn.Linear(8, 1)})

    model = build()
    cut_to(model, form)
    plan = quantize_embeddings(model, stored)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(build(), tmp_path).eval()
    ids = torch.arange(50)
    assert torch.equal(loaded["t"](ids), model.eval()["t"](ids))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    plan.save(tmp_path / "plan")
    again = tamis.load_policy(tmp_path / "plan")
    assert again.stored == {"t": stored}
    other = build()
    again.apply(other)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()["t"](ids), model["t"](ids))
    twin = copy.deepcopy(model)
    assert torch.equal(twin["t"](ids), model["t"](ids))
    with pytest.raises(ValueError, match=rf"quantize='int4': the model was saved as {stored} already"):
        tamis.load_pruned(build(), tmp_path, quantize="int4")


@pytest.mark.parametrize("form", ["narrow", "blocks", "values"])
def test_a_model_saved_in_float_is_quantised_while_it_is_read(form, tmp_path):
    model = nn.ModuleDict({"t": nn.Embedding(50, 8)})
    cut_to(model, form)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(nn.ModuleDict({"t": nn.Embedding(50, 8)}), tmp_path, quantize="int4").eval()
    quantize_embeddings(model, "int4")
    assert torch.equal(loaded["t"](torch.arange(50)), model.eval()["t"](torch.arange(50)))
    with pytest.raises(ValueError, match="quantize='int3': must be one of 'int8', 'int4', 'int2'"):
        tamis.load_pruned(nn.ModuleDict({"t": nn.Embedding(50, 8)}), tmp_path, quantize="int3")


@pytest.mark.parametrize("name", ["deepfm", "widedeep"])
@pytest.mark.parametrize("project", [False, True])
def test_a_cut_model_keeps_its_logits_up_to_rounding(name, project, tmp_path):
    kept = {"embeddings.user": index(0, 1, 4, 6), "embeddings.item": index(0, 1, 2), "embeddings.hour": index(5)}
    model = random_model(name).eval()
    cut(model, kept, example_inputs=batch(), project=project)
    exact = model(**batch())["logits"].detach()
    plan = quantize_embeddings(model, "int8")
    assert "embeddings.hour" not in plan.stored  # one column would grow
    assert set(plan.stored) == {"embeddings.user", "embeddings.item", "embeddings.tag"}
    found = model(**batch())["logits"].detach()
    assert 0 < float((found - exact).abs().max()) < 0.5
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(random_model(name), tmp_path).eval()
    assert torch.equal(loaded(**batch())["logits"], found)


def test_plain_operations_and_operators_agree(monkeypatch):
    """What CUDA and compilers run, against the operator: sums may differ in the last place only."""
    import tamis.pruners.surgery.packing as packing

    for stored, mode in itertools.product(TYPES, ["sum", "mean"]):
        model = nn.ModuleDict({"e": nn.Embedding(50, 6), "b": nn.EmbeddingBag(50, 6, mode=mode, padding_idx=1)}).eval()
        quantize_embeddings(model, stored)
        ids = torch.tensor([[1, 3, 1], [49, 0, 7]])
        fast = model["e"](ids), model["b"](ids)
        with monkeypatch.context() as patch:
            patch.setattr(packing, "has_operator", lambda packed: False)
            for one, other in zip(fast, (model["e"](ids), model["b"](ids)), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_ids_out_of_range_are_refused():
    for form in FORMS:
        model = nn.ModuleDict({"t": nn.Embedding(50, 8)}).eval()
        cut_to(model, form)
        quantize_embeddings(model, "int4")
        for bad in (50, -1):
            with pytest.raises((IndexError, RuntimeError), match="out of"):
                model["t"](torch.tensor([1, bad]))


# ---- training


def test_a_quantised_table_is_not_trained_silently():
    model = random_model("deepfm")
    inputs = batch()
    quantize_embeddings(model, "int4")
    with pytest.raises(
        RuntimeError, match=r"QuantizedEmbedding\(30, 8, stored as int4\): .*cannot be trained; call mod"
    ):
        model(**inputs)
    with torch.no_grad():
        model(**inputs)  # training mode, but nobody can differentiate
    model.eval()(**inputs)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        model.embeddings["user"].requires_grad_(True)
    for each in model.modules():
        if isinstance(each, Quantized):
            each.requires_grad_(False)
    model.train()(**inputs)["loss"].backward()  # what lies behind the tables trains on
    assert model.mlp[0].weight.grad is not None


def test_an_optimizer_that_holds_a_table_is_refused_and_nothing_is_changed():
    model = random_model("deepfm")
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match=r"optimizer=Adam: trains the table 'embeddings\.user', which as int4 cannot"):
        quantize_embeddings(model, "int4", optimizer=optimizer)
    assert not any(isinstance(module, Quantized) for module in model.modules())
    assert "tamis_plan" not in model._buffers
    quantize_embeddings(model, "int4", optimizer=torch.optim.Adam(model.mlp.parameters()))


def test_weight_says_where_it_went():
    model = nn.ModuleDict({"t": nn.Embedding(50, 8)})
    cut_to(model, "blocks")
    with pytest.raises(AttributeError, match=r"BlockEmbedding has no 'weight': its rows stand in 2 parts"):
        _ = model["t"].weight
    quantize_embeddings(model, "int4")
    with pytest.raises(AttributeError, match="has no 'weight': its rows are stored as int4"):
        _ = model["t"].weight
    assert model["t"].dequantize().shape == (50, 8)
    assert not hasattr(model["t"], "weight")


# ---- which tables


def test_tables_that_share_a_weight_are_stored_once(tmp_path):
    def build():
        model = nn.ModuleDict({"a": nn.Embedding(50, 8), "b": nn.EmbeddingBag(50, 8, mode="mean")})
        model["b"].weight = model["a"].weight
        return model

    model = build()
    plan = quantize_embeddings(model, "int4")
    assert plan.tables["a"].tied == ("b",)
    assert [name for name in model.state_dict() if name != "tamis_plan"] == ["a.packed"]
    model.eval()
    ids = torch.tensor([[1, 2]])
    torch.testing.assert_close(model["b"](ids), model["a"](ids).mean(1))
    twin = copy.deepcopy(model)
    assert twin["b"].owner is twin["a"]
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = tamis.load_pruned(build(), tmp_path).eval()
    assert torch.equal(loaded["b"](ids), model["b"](ids))


def test_named_tables_only_and_one_after_the_other():
    model = random_model("deepfm")
    quantize_embeddings(model, "int8", tables=["embeddings.user"])
    plan = quantize_embeddings(model, "int4", tables=["embeddings.item"])
    assert plan.stored == {"embeddings.user": "int8", "embeddings.item": "int4"}
    assert PruningPlan.read_from(model.tamis_plan).stored == plan.stored
    with pytest.raises(ValueError, match=r"'embeddings\.user' is stored as int8 already"):
        quantize_embeddings(model, "int4", tables=["embeddings.user"])
    with pytest.raises(TypeError, match=r"'mlp\.0' is not an embedding"):
        quantize_embeddings(model, "int4", tables=["mlp.0"])
    with pytest.raises(TypeError, match="must be a list of module paths"):
        quantize_embeddings(model, "int4", tables="embeddings.tag")


def test_a_table_that_would_grow_stays_and_nothing_at_all_warns():
    model = nn.ModuleDict({"t": nn.Embedding(50, 1)})
    with pytest.warns(NoEffectWarning, match=r"quantize='int4': no table gets smaller by it \(t\)"):
        plan = quantize_embeddings(model, "int4")
    assert plan.stored == {}
    assert type(model["t"]) is nn.Embedding


def test_bad_tables_are_refused_and_nothing_is_changed():
    class Scaled(nn.Embedding):
        def forward(self, input):
            return 2 * super().forward(input)

    cases = [
        (Scaled(50, 8), TypeError, "is a Scaled, which has a forward of its own"),
        (nn.Embedding(50, 8, max_norm=1.0), ValueError, "has max_norm"),
        (nn.Embedding.from_pretrained(torch.full((50, 8), 1e6)), ValueError, "numbers up to 1e\\+06.*use int8"),
        (nn.Embedding.from_pretrained(torch.full((50, 8), torch.nan)), FloatingPointError, "NaN or infinity"),
    ]
    for bad, error, match in cases:
        model = nn.ModuleDict({"good": nn.Embedding(50, 8), "bad": bad})
        with pytest.raises(error, match=match):
            quantize_embeddings(model, "int4")
        assert type(model["good"]) is nn.Embedding
        assert not model._buffers
    with pytest.raises(ValueError, match="must have float embedding tables; its tables are none"):
        quantize_embeddings(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="must be one of 'int8', 'int4', 'int2'"):
        quantize_embeddings(nn.ModuleDict({"t": nn.Embedding(5, 8)}), "int16")
    part = nn.ModuleDict({"body": nn.ModuleDict({"t": nn.Embedding(50, 8)})})
    cut_to(part["body"], "narrow")
    with pytest.raises(ValueError, match=r"its part 'body' was cut on its own; quantize_embeddings\(model\.body\)"):
        quantize_embeddings(part)


def test_large_numbers_fit_int8():
    weight = torch.randn(50, 8) * 1e6
    model = nn.ModuleDict({"t": nn.Embedding.from_pretrained(weight)}).eval()
    quantize_embeddings(model, "int8")
    torch.testing.assert_close(model["t"](torch.arange(50)), weight, rtol=0, atol=2e4)


def test_dtype_follows_the_model():
    model = random_model("deepfm").eval()
    quantize_embeddings(model, "int4")
    assert model.half().embeddings["user"](index(1)).dtype == torch.float16
    assert model.embeddings["user"].packed.dtype == torch.uint8


def test_torch_compile_takes_the_model_whole():
    model = random_model("widedeep").eval()
    cut(model, {"embeddings.user": index(0, 1, 4, 6), "embeddings.item": index(0, 1, 2)}, example_inputs=batch())
    quantize_embeddings(model, "int4")
    features = batch()["features"]
    with torch.no_grad():
        wanted = model(features)["logits"]
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(features)["logits"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
