"""Reprs of policies, features, samplers and transforms: one line that says what it is, no tensor printed."""

import numpy as np
import torch

from tamis.core.short import short
from tamis.samplers import FeatureTable, WeightedSampler
from tamis.transforms import LabelAwareAugment
from tests.contract.label_aware_factories import make_policy
from tests.golden.toys import PlainPolicy


def test_tensors_by_dtype_and_shape_and_the_rest_cut():
    assert short(torch.zeros(3, 4)) == "float32[3, 4]"
    assert short({"a": torch.zeros(2, dtype=torch.int64), "b": None}) == "{'a': int64[2], 'b': None}"
    assert short(tuple(range(100))) == "(0, 1, 2, 3, 4, 5, ...)"
    assert len(short("x" * 1000)) <= 62
    assert "\n" not in short(np.zeros((30, 30)))


def test_policies_and_features():
    assert "classes=('cat', 'dog', 'ship'), triples=uint8[3, 20, 3], " in repr(make_policy())
    assert repr(PlainPolicy(magnitudes=(3.0,))) == "PlainPolicy(magnitudes=(3.0,))"
    loss = torch.rand(500)
    table = FeatureTable({"loss": loss, "length": loss[:, None], "rarity": torch.rand(500, 3)})
    assert repr(table) == "FeatureTable(500 samples: loss, length[1], rarity[3])"


def test_samplers_and_transforms_say_where_they_stand():
    sampler = WeightedSampler(torch.arange(1.0, 100.0), num_samples=40, seed=3)
    sampler.set_epoch(2)
    assert repr(sampler) == "WeightedSampler(num_samples=40, seed=3, epoch=2)"
    assert (
        repr(LabelAwareAugment(make_policy(), seed=5)) == "LabelAwareAugment(classes=3, triples=20, seed=5, mode=exact)"
    )
