"""One table for every sampler and search; files, digests and spellings of release 0.1 go on working."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tamis import features as package
from tamis.core import read_state
from tamis.features import FeatureTable, curriculum_features, sample_features
from tamis.samplers import CurriculumSampler, LogLikelihood, SwiftLaw, SwiftPolicy, SwiftSampler, WeightedSampler

GOLDEN = Path(__file__).parents[1] / "golden" / "features"
FACTS = json.loads((GOLDEN / "facts.json").read_text())
TEXT = ["a cat sat on a mat", "a dog", "", "the cat sat on the mat", "größe ist größe", "a"]
LAW = SwiftLaw((0.5,), (0.25, 0.5, 0.75), (1.0, 0.5, 0.5, 0.0, 0.2))


def table() -> FeatureTable:
    loss = torch.linspace(0, 1, 40, dtype=torch.float64)
    return FeatureTable(
        {"loss": loss, "gradient": loss + 0.1, "log_likelihood": torch.stack([-loss, -loss / 2], 1)},
        {"log_likelihood": ("sum", "per_token")},
        fingerprint="sha256:mine",
    )


def test_columns_are_read_by_name() -> None:
    features = table()
    names = ("loss", "gradient", "log_likelihood.sum", "log_likelihood.per_token")
    assert (len(features), features.column_names) == (40, names)
    assert features["loss"].dtype == torch.float64
    assert torch.equal(features["log_likelihood.sum"], features.column("log_likelihood", "sum"))
    assert torch.equal(features.column("loss", "loss"), features.groups["loss"][:, 0])
    assert torch.equal(features.matrix(3, 5)[:, 3], features["log_likelihood.per_token"][3:5])
    assert ("loss" in features, "log_likelihood" in features) == (True, False)
    with pytest.raises(KeyError, match=r"log_likelihood: not among the features loss, gradient, log_likelihood\.sum"):
        features["log_likelihood"]


def test_tables_are_made_of_tables() -> None:
    features = table().with_columns({"age": np.arange(40), "loss": [0.5] * 40})
    assert features.column_names[0] == "loss"
    assert features.column_names[-1] == "age"
    assert features["loss"].tolist() == [0.5] * 40
    some = features.select_columns(["log_likelihood", "age"])
    assert some.layout == {"log_likelihood": ("sum", "per_token"), "age": ("age",)}
    assert some.select_columns(["log_likelihood.sum"]).column_names == ("log_likelihood.sum",)
    assert features.with_group("age", np.ones((40, 2))).layout["age"] == ("0", "1")
    assert features.with_group("age", np.ones(40))["age"].tolist() == [1.0] * 40
    assert {t.fingerprint for t in (features, some)} == {"sha256:mine"}


def test_one_table_serves_every_sampler(tmp_path: Path) -> None:
    table().save(tmp_path / "features.safetensors")
    features = FeatureTable.load(tmp_path / "features.safetensors")
    assert features.digest() == table().digest()
    assert features.layout == table().layout
    assert list(CurriculumSampler(LogLikelihood(), features, pool=40)) == [0]
    chosen = features.select_columns(["loss", "gradient"])
    sampler = SwiftSampler(SwiftPolicy.fit(LAW, chosen), features, seed=1)
    assert list(sampler) == list(SwiftSampler(SwiftPolicy.fit(LAW, chosen), chosen, seed=1))
    both = SwiftPolicy.fit(SwiftLaw((0.5, 0.1, 0.1), LAW.knots, LAW.heights), features)
    assert both.names == ("loss", "log_likelihood.sum", "log_likelihood.per_token")


def test_a_law_by_gradients_needs_gradients() -> None:
    loss = table().select_columns(["loss"])
    with pytest.raises(ValueError, match=r"no column 'gradient'.*with_columns.*transform='cdf'"):
        SwiftPolicy.fit(LAW, loss)
    cdf = SwiftLaw(LAW.coefficients, LAW.knots, LAW.heights, "cdf")
    weights = SwiftPolicy.fit(cdf, loss).weights(loss)
    assert torch.equal(weights, SwiftPolicy.fit(cdf, table().select_columns(["loss", "gradient"])).weights(loss))
    with pytest.raises(ValueError, match=r"gradient\[1\]=-1\.0: must be >= 0"):
        SwiftPolicy.fit(LAW, FeatureTable({"loss": [1.0, 2.0], "gradient": [1.0, -1.0]}))
    with pytest.raises(ValueError, match="a column besides 'gradient'"):
        SwiftPolicy.fit(LAW, FeatureTable({"gradient": [1.0, 1.0]}))


def linear() -> nn.Linear:
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).view(3, 2) / 4)
        model.bias.copy_(torch.tensor([0.5, -0.25, 0.0]))
    return model


def test_sample_features_of_release_0_1_load_and_keep_their_digest() -> None:
    data = TensorDataset(torch.arange(14.0).view(7, 2) / 8, torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    old = FeatureTable.load(GOLDEN / "sample_features.safetensors", data)
    assert old.digest() == FACTS["sample_features"]
    assert old["loss"].tolist() == FACTS["values"]["loss"]
    assert old["gradient"].tolist() == FACTS["values"]["gradient"]
    now = sample_features(linear(), data)
    assert (now.column_names, now.fingerprint) == (old.column_names, old.fingerprint)
    assert torch.allclose(now.matrix(), old.matrix(), rtol=1e-6)


def test_curriculum_features_of_release_0_1_load_and_keep_their_digest(tmp_path: Path) -> None:
    data = {"t": TEXT, "u": TEXT[::-1], "score": [1, 2, 3, 4, 5, 6]}
    old = FeatureTable.load(GOLDEN / "curriculum_features.safetensors", data)
    now = curriculum_features(data, text=["t", "u"], columns=["score"], cache=tmp_path)
    assert old.digest() == now.digest() == FACTS["curriculum_features"]
    assert old.groups["length"].tolist() == FACTS["values"]["length"]
    assert sorted(path.name for path in tmp_path.iterdir()) == FACTS["blocks"]
    with pytest.raises(ValueError, match="columns t, u are not those of the features"):
        old.check({**data, "u": TEXT})


def test_spellings_of_release_0_1_say_what_to_write() -> None:
    loss = torch.linspace(0, 1, 5, dtype=torch.float64)
    with pytest.warns(FutureWarning, match=r"write FeatureTable\(\{'loss'"):
        own = package.SampleFeatures({"loss": loss, "age": torch.arange(5.0)}, torch.ones(5), "sha256:own")
    assert own.digest() == FACTS["own"]
    assert isinstance(own, FeatureTable)
    assert isinstance(own, package.SampleFeatures)
    assert isinstance(own, package.CurriculumFeatures)
    with pytest.warns(FutureWarning, match="column_names"):
        assert list(own.columns) == ["loss", "age"]
    with pytest.warns(FutureWarning, match=r"features\['gradient'\]"):
        assert own.gradient.tolist() == [1.0] * 5
    with pytest.warns(FutureWarning, match=r"write FeatureTable\.load"):
        package.SampleFeatures.load(GOLDEN / "sample_features.safetensors")
    with pytest.warns(FutureWarning, match=r"write FeatureTable\(groups, columns\)"):
        groups = package.CurriculumFeatures({"length": torch.ones(5, 1)}, {"length": ("words",)})
    with pytest.warns(FutureWarning, match="layout"):
        assert groups.columns == {"length": ("words",)}


def test_a_weighted_sampler_saved_by_release_0_1_resumes() -> None:
    sampler = WeightedSampler([1.0, 1.0, 1.0, 0.5, 2.0], num_samples=11)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.load_state_dict(read_state(GOLDEN / "weighted_sampler.json"))
    sampler.seek(4)
    first, second = FACTS["draws"]
    assert list(sampler) == first[4:]
    sampler.set_epoch(1)
    assert list(sampler) == second
