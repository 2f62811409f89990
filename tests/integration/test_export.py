"""Pruned and quantised models outside of tamis: ONNX by both exporters, torch.compile, TorchRec's tables."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tamis import PolicyError
from tamis.pruners import Selection, cut, quantize_embeddings
from tamis.pruners.surgery.packing import _floats
from tests.unit.cut_tools import batch, index, random_model

KEPT = {
    "embeddings.user": index(1, 4, 5, 7),
    "embeddings.item": index(),
    "embeddings.hour": index(0, 1, 2, 6),
    "embeddings.tag": torch.arange(8),
}


class Logits(nn.Module):
    """A tensor in, a tensor out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        return self.model(features)["logits"]


def pruned(name, stored=None, **options):
    model = random_model(name).eval()
    plan = cut(model, KEPT, example_inputs=batch(), **options)
    if stored:
        plan = quantize_embeddings(model, stored)
    return Logits(model).eval(), plan


@pytest.mark.filterwarnings("ignore")  # of the exporters
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("stored", [None, "int8", "int4", "int2"])
@pytest.mark.parametrize("name", ["widedeep", "deepfm"])  # tables cut by columns, and with zeros put back
def test_onnxruntime_gives_the_same_outputs(name, stored, dynamo, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'tamis[export]'")
    import onnxruntime

    model, _ = pruned(name, stored)
    features, path = batch()["features"], str(tmp_path / "model.onnx")
    rows = {0: torch.export.Dim("rows")}
    shapes = {"dynamic_shapes": (rows,)} if dynamo else {"dynamic_axes": {"features": {0: "rows"}}}
    options = {"input_names": ["features"], "output_names": ["logits"], "verbose": False}
    torch.onnx.export(model, (features,), path, dynamo=dynamo, **options, **shapes)
    session = onnxruntime.InferenceSession(path)
    for part in (features, features[:5]):
        (found,) = session.run(None, {"features": part.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, model(part).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_bytes_are_floats_by_arithmetic_too(dtype):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(2000, generator=generator) * 10 ** torch.randn(2000, generator=generator)
    numbers = torch.cat([numbers, torch.tensor([0.0, 1.0, -1.0, 6e-8, -1e-7, 65504.0])]).to(dtype)
    assert torch.equal(_floats(numbers[:, None].view(torch.uint8))[:, 0], numbers.float())


@pytest.mark.parametrize("stored", ["int8", "int4", "int2"])
@pytest.mark.parametrize("name", ["widedeep", "deepfm"])
def test_torch_compile_has_no_graph_breaks(name, stored):
    model, _ = pruned(name, stored)
    features = batch()["features"]
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(features), model(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["narrow", "blocks"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_torch_compile_takes_quantised_bags_and_blocks(kind, mode):
    bag = nn.ModuleDict({"t": nn.EmbeddingBag(50, 8, mode=mode, padding_idx=3)})
    patterns = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.7
    cut(bag, {"t": index(0, 2, 3) if kind == "narrow" else Selection.blocks(torch.arange(50) % 4, patterns)})
    quantize_embeddings(bag, "int4")
    ids = torch.randint(0, 50, (9, 5), generator=torch.Generator().manual_seed(1))
    table = bag["t"].eval()
    compiled = torch.compile(copy.deepcopy(table), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), table(ids), rtol=1e-5, atol=1e-5)


# ---- TorchRec


def test_a_plan_as_torchrec_tables():
    _, plan = pruned("widedeep")
    quantized = quantize_embeddings(pruned("widedeep")[0].model, "int4", tables=["embeddings.user"])
    configs = plan.to_torchrec()
    assert list(configs) == ["embeddings.user", "embeddings.hour", "embeddings.tag"]  # item keeps no column
    assert configs["embeddings.user"] == {
        "name": "embeddings_user", "num_embeddings": 30, "embedding_dim": 4, "data_type": "FP32",
        "feature_names": ["embeddings_user"],
    }  # fmt: skip
    types = {path: config["data_type"] for path, config in quantized.to_torchrec().items()}
    assert types == {"embeddings.user": "INT4", "embeddings.hour": "FP32", "embeddings.tag": "FP32"}
    model = nn.ModuleDict({"t": nn.Embedding(50, 8)})
    blocks = cut(model, {"t": Selection.blocks(torch.arange(50) % 2, torch.eye(2, 8) > 0)})
    with pytest.raises(PolicyError, match=r"the table 't' keeps blocks, and TorchRec's tables have one width"):
        blocks.to_torchrec()
    wide = nn.ModuleDict({"t": nn.Embedding(50, 8)}).double()
    with pytest.raises(PolicyError, match="numbers of 8 bytes"):
        cut(wide, {"t": index(0)}).to_torchrec()


def test_torchrec_objects_where_torchrec_loads():
    _, plan = pruned("widedeep", "int4")
    try:
        import torchrec
    except Exception:  # fbgemm's library is built for one torch
        with pytest.raises(ImportError, match=r"torchrec cannot be imported .* or take the dicts"):
            plan.to_torchrec(objects=True)
        pytest.skip("torchrec is not installed, or does not load with this torch: its objects were not made")
    configs = plan.to_torchrec(objects=True)
    assert isinstance(configs["embeddings.user"], torchrec.EmbeddingBagConfig)
    assert configs["embeddings.user"].embedding_dim == 4
    assert configs["embeddings.user"].data_type.value == "INT4"
