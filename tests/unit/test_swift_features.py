"""Sample features: parity with the slow reference, exact gradients, one pass over many kinds of data and model."""

import random  # noqa: TID251  (a data set's augmentation)
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from tamis.core.rng import torch_generator
from tamis.features.data import fingerprint_dataset
from tamis.features.samples import (
    cross_entropy,
    exact_gradient_norm,
    feature_columns,
    last_layer_gradient_norm,
    renormalised_entropy,
    sample_features,
)
from tamis.features.table import FeatureTable
from tests.reference import swift as reference


class Net(nn.Module):
    """A model with dropout and batch norm, so that train and eval differ; ``wrap`` shapes its output."""

    def __init__(self, classes=4, wrap=lambda logits: logits, bias=True):
        super().__init__()
        generator = torch_generator(7)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.ReLU())
        self.head = nn.Linear(5, classes, bias=bias)
        self.wrap = wrap
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x):
        return self.wrap(self.head(self.body(x)))


def data(n=37, classes=4):
    generator = torch_generator(1)
    return torch.randn(n, 6, generator=generator), torch.randint(classes, (n,), generator=generator)


def test_loss_entropy_and_gradient_agree_with_the_reference():
    model, (x, y) = Net().eval(), data()
    features = sample_features(model, TensorDataset(x, y), batch_size=8)
    with torch.no_grad():
        hidden = model.body(x).double()
        logits = (hidden @ model.head.weight.double().T + model.head.bias.double()).tolist()
    for k in range(len(x)):
        assert float(features["loss"][k]) == pytest.approx(
            -np.log(reference.softmax(logits[k])[y[k]]), rel=1e-4, abs=1e-5
        )
        expected = reference.renormalised_entropy(logits[k], int(y[k]))
        assert float(features["entropy"][k]) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        norm = reference.last_layer_gradient_norm(logits[k], int(y[k]), hidden[k].tolist())
        assert float(features["gradient"][k]) == pytest.approx(norm, rel=1e-3, abs=1e-5)


def test_features_stay_right_where_the_target_is_certain():
    logits = torch.tensor([[800.0, 1.0, 0.0], [-800.0, 0.0, 0.0], [0.0, float("-inf"), 0.0]], dtype=torch.float64)
    target = torch.zeros(3, dtype=torch.long)
    entropy = renormalised_entropy(logits, target)
    p = 1 / (1 + np.e**-1)
    assert entropy.tolist() == pytest.approx([-p * np.log(p) - (1 - p) * np.log(1 - p), np.log(2), 0.0])
    assert cross_entropy(logits, target).tolist() == pytest.approx([0.0, 800 + np.log(2), np.log(2)])
    nearly = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    norm = last_layer_gradient_norm(nearly, target[:1], torch.zeros(1, 2, dtype=torch.float64))
    assert float(norm) == pytest.approx(np.sqrt(6) * np.exp(-40.0), rel=1e-9)  # (-2q, q, q) with q = e^-40


@pytest.mark.parametrize("bias", [True, False])
def test_the_closed_form_is_the_exact_gradient_of_the_last_layer(bias):
    model, (x, y) = Net(bias=bias).eval(), data()
    model.body.requires_grad_(False)
    closed = sample_features(model, TensorDataset(x, y))["gradient"]
    exact = sample_features(model, TensorDataset(x, y), gradient="exact")["gradient"]
    assert torch.allclose(closed, exact, rtol=1e-4)


def test_exact_gradients_equal_autograd_one_sample_at_a_time():
    model, (x, y) = Net().eval(), data(9)
    norms = exact_gradient_norm(model, x, y)
    for k in range(9):
        loss = cross_entropy(model(x[k : k + 1]), y[k : k + 1]).sum()
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        assert float(norms[k]) == pytest.approx(float(flat.norm().detach()), rel=1e-4)


class Rows(Dataset):
    """Rows as dicts, the way Hugging Face data sets give them."""

    def __init__(self, x, y, label):
        self.x, self.y, self.label = x, y, label

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return {"x": self.x[index], self.label: int(self.y[index])}


@pytest.mark.parametrize(
    "wrap", [lambda z: {"logits": z}, lambda z: (z, None), lambda z: type("Output", (), {"logits": z})()]
)
@pytest.mark.parametrize("label", ["labels", "label"])
def test_dict_rows_and_wrapped_outputs(wrap, label):
    x, y = data()
    plain = sample_features(Net(), TensorDataset(x, y))
    rows = Rows(x, y, label)
    wrapped = sample_features(Net(wrap=wrap), DataLoader(rows, batch_size=5, shuffle=True))  # its order is not used
    assert torch.allclose(plain["loss"], wrapped["loss"], atol=1e-5)
    assert plain.fingerprint == wrapped.fingerprint
    wrapped.check(rows)


def test_the_model_comes_back_as_it_was_and_the_global_generator_untouched():
    model, (x, y) = Net().train(), data()
    model.body[1].eval()
    flags = [module.training for module in model.modules()]
    before, buffers = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    sample_features(model, TensorDataset(x, y))
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, buffers[k]) for k, v in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_two_classes_drop_the_entropy_with_a_warning():
    x, y = data(classes=2)
    with pytest.warns(UserWarning, match="2 classes"):
        features = sample_features(Net(classes=2), TensorDataset(x, y))
    assert features.column_names == ("loss", "gradient")
    assert list(feature_columns(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))) == ["loss"]


def test_a_nan_is_refused_and_its_sample_named():
    x, y = data()
    x[23] = float("nan")
    with pytest.raises(ValueError, match=r"loss\[23\]=nan.*sample 23"):
        sample_features(Net(), TensorDataset(x, y), batch_size=10)


def test_bad_data_and_models_are_refused():
    x, y = data()

    class Stream(IterableDataset):
        def __iter__(self):
            yield x[0], 0

    with pytest.raises(TypeError, match="map-style"):
        sample_features(Net(), Stream())
    with pytest.raises(TypeError, match="labels"):
        sample_features(Net(), TensorDataset(x))
    with pytest.raises(TypeError, match="labels"):
        sample_features(Net(), TensorDataset(x, x[:, 0]))
    with pytest.raises(ValueError, match="at least one"):
        sample_features(Net(), TensorDataset(x[:0], y[:0]))
    with pytest.raises(ValueError, match="shape \\[batch, classes\\]"):
        sample_features(Net(wrap=lambda z: z[:, :, None]), TensorDataset(x, y))
    with pytest.raises(ValueError, match="pass head="):
        sample_features(Net(wrap=lambda z: z[:, :3]), TensorDataset(x, y % 3))
    with pytest.raises(ValueError, match="gradient='last'"):
        sample_features(Net(), TensorDataset(x, y), gradient="last")
    with pytest.raises(
        TypeError, match=r"model=.*: must be an nn.Module; call sample_features\(model, data\), got TensorD"
    ):
        sample_features(TensorDataset(x, y), Net())


class TwoHeads(Net):
    """An auxiliary head of the same width that runs after the true one."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(5, 4)

    def forward(self, x):
        hidden = self.body(x)
        logits = self.head(hidden)
        self.auxiliary(hidden * 3)
        return logits


def test_an_auxiliary_head_is_not_taken_for_the_head():
    x, y = data()
    plain = sample_features(Net(), TensorDataset(x, y))
    model = TwoHeads()
    model.load_state_dict(
        {**Net().state_dict(), **{f"auxiliary.{k}": v for k, v in model.auxiliary.state_dict().items()}}
    )
    assert torch.equal(sample_features(model, TensorDataset(x, y))["gradient"], plain["gradient"])
    assert torch.equal(sample_features(model, TensorDataset(x, y), head=model.head)["gradient"], plain["gradient"])
    with pytest.raises(ValueError, match="pass head="):
        sample_features(model, TensorDataset(x, y), head=model.auxiliary)


@pytest.mark.parametrize("wrap", [lambda z: 10 * z, lambda z: z.mul_(10), lambda z: z.tanh()])
def test_logits_that_are_no_layers_output_are_refused(wrap):
    x, y = data()
    with pytest.raises(ValueError, match=r'pass head=.*gradient="exact"'):
        sample_features(Net(wrap=wrap), TensorDataset(x, y))
    sample_features(Net(wrap=lambda z: 10 * z), TensorDataset(x, y), gradient="exact")


def test_normalised_logits_have_the_same_gradient():
    x, y = data()
    plain, normalised = (
        sample_features(Net(wrap=wrap), TensorDataset(x, y)) for wrap in (lambda z: z, lambda z: F.log_softmax(z, -1))
    )
    assert torch.allclose(plain["gradient"], normalised["gradient"], atol=1e-5)


@pytest.mark.parametrize("label", [-100, 4])
@pytest.mark.parametrize("gradient", ["last_layer", "exact"])
def test_a_label_out_of_range_is_refused_and_its_sample_named(label, gradient):
    x, y = data()
    y[23] = label
    with pytest.raises(ValueError, match=rf"label\[23\]={label}: must lie in \[0, 4\)"):
        sample_features(Net(), TensorDataset(x, y), batch_size=10, gradient=gradient)


class Images(Dataset):
    """Samples made from ``x`` by ``make``."""

    def __init__(self, make, shift=0.0):
        self.x, self.targets = data()
        self.x += shift
        self.make = make

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.make(self.x[index]), int(self.targets[index])


def as_image(x):
    from PIL import Image

    return Image.fromarray((x.numpy() * 20 + 128).clip(0, 255).astype(np.uint8)[None])


MAKES = {
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "image": as_image,
    "torch": lambda x: x + torch.rand(6),
    "numpy": lambda x: x + torch.from_numpy(np.random.random(6)).float(),  # noqa: NPY002
    "python": lambda x: x + random.random(),
}


def features_of(dataset):
    return FeatureTable({"loss": torch.ones(37)}, fingerprint=fingerprint_dataset(dataset))


@pytest.mark.parametrize("make", MAKES)
def test_other_inputs_with_equal_labels_are_refused(make):
    before = torch.get_rng_state(), random.getstate()
    features = features_of(Images(MAKES[make]))
    features.check(Images(MAKES[make]))
    with pytest.raises(ValueError, match="another data set"):
        features.check(Images(MAKES[make], shift=0.5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("kind", ["random", "opaque"])
def test_inputs_that_cannot_be_compared_are_left_out(kind):
    rng = torch_generator(3)
    make = {"random": lambda x: x + torch.rand(6, generator=rng), "opaque": lambda x: object()}[kind]
    features = features_of(Images(make))
    features.check(Images(make))
    other = Images(make)
    other.targets = other.targets.flip(0)
    with pytest.raises(ValueError, match="another data set"):
        features.check(other)


def test_saved_features_come_back_and_other_data_is_refused(tmp_path):
    x, y = data()
    dataset = TensorDataset(x, y)
    features = sample_features(Net(), dataset)
    features.save(tmp_path / "features.safetensors")
    again = FeatureTable.load(tmp_path / "features.safetensors", dataset)
    assert again.digest() == features.digest()
    with pytest.raises(ValueError, match="another data set"):
        again.check(TensorDataset(x, y.flip(0)))
    with pytest.raises(ValueError, match="has 36 samples"):
        again.check(Subset(dataset, range(36)))
    again.check(Subset(dataset, range(37)))
    save_file({"gradient": features["gradient"]}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"must be a file that FeatureTable\.save wrote, got format None"):
        FeatureTable.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("columns", "gradient", "message"),
    [
        ({"loss": [1.0, 2.0]}, [1.0], "gradient: must be 1-D with 2"),
        ({"loss": [1.0, float("inf")]}, [1.0, 1.0], r"loss\[1\]=inf"),
        ({"loss": []}, [], ">= 1 values"),
    ],
)
def test_bad_features_are_refused(columns, gradient, message):
    with pytest.raises(ValueError, match=message):
        FeatureTable({**columns, "gradient": gradient})


def test_features_of_another_shape_are_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"columns=Tensor: must be a dict of at least one feature"):
        FeatureTable(torch.rand(3))
    with pytest.raises(ValueError, match=r"columns=\{\}: must be a dict of at least one feature"):
        FeatureTable({})
    with pytest.raises(TypeError, match=r"loss=list: must be numbers that torch\.as_tensor takes"):
        FeatureTable({"loss": ["a", "b"]})
    with pytest.raises(ValueError, match=r"x: has \[3, 2\] values, but 1 column names"):
        FeatureTable({"x": np.ones((3, 2))}, {"x": ("a",)})
    with pytest.raises(ValueError, match="layout: names y, which columns does not hold"):
        FeatureTable({"x": np.ones(3)}, {"y": ("a",)})


def test_hugging_face_data_set():
    datasets = pytest.importorskip("datasets")
    x, y = data()
    rows = datasets.Dataset.from_dict({"x": x.tolist(), "label": y.tolist()}).with_format("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        features = sample_features(Net(), rows)
    features.check(rows)
    plain = sample_features(Net(), TensorDataset(x, y))
    assert torch.allclose(features["loss"], plain["loss"], atol=1e-5)
