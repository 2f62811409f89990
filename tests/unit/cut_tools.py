"""What the tests of the cut share: the reference (the same model with zeroed columns), and models and batches."""

import copy

import torch
from torch import nn

from examples.ctr_models import MODELS

SIZES = {"user": 30, "item": 20, "hour": 7, "tag": 3}
DIM = 8


def index(*columns):
    return torch.tensor(columns, dtype=torch.int64)


def random_model(name, **kwargs):
    """A CTR model with weights of size one, so that every column matters to the logit."""
    generator = torch.Generator().manual_seed(3)
    model = MODELS[name](SIZES, dim=DIM, hidden=(16, 8), **kwargs)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def batch(rows=64):
    generator = torch.Generator().manual_seed(4)
    columns = [torch.randint(0, size, (rows,), generator=generator) for size in SIZES.values()]
    labels = torch.randint(0, 2, (rows,), generator=generator).float()
    return {"features": torch.stack(columns, dim=1), "labels": labels}


def zero_columns(weight, kept):
    mask = torch.zeros(weight.shape[1])
    mask[kept] = 1
    with torch.no_grad():
        weight.mul_(mask)


def zeroed(model, kept):
    """A copy of ``model`` with the columns that are not kept set to zero: what the cut must reproduce."""
    reference = copy.deepcopy(model)
    for path, columns in kept.items():
        zero_columns(reference.get_submodule(path).weight, columns)
    return reference
