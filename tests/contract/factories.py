"""Small setups for the contract suites, importable by name so that torchrun's processes can build them too."""

from functools import partial

import torch
from torch import nn

from examples.ctr_models import DeepFM
from tamis import pruners
from tamis.core.rng import torch_generator
from tamis.pruners import DNIS, DimReg, DimRegConfig, DNISConfig
from tamis.samplers import WeightedSampler

WEIGHTS = [0.0, *(0.2 + 0.1 * k for k in range(22)), 0.0]
FIELDS = {"user": 40, "item": 35, "day": 7}


class Clicks(torch.utils.data.Dataset):
    """24 rows whose label depends on two of the three fields."""

    def __init__(self):
        generator = torch_generator(5)
        self.features = torch.stack([torch.randint(size, (24,), generator=generator) for size in FIELDS.values()], 1)
        self.labels = ((self.features[:, 0] + self.features[:, 1]) % 2).float()

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return {"features": self.features[index], "labels": self.labels[index]}


class ItemLoss(nn.Module):
    """A CTR model whose loss is normalised over all items of an optimizer step, as HF's language models do it."""

    accepts_loss_kwargs = True

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features, labels=None, num_items_in_batch=None):
        out = self.model(features, labels)
        if num_items_in_batch is not None:
            out["loss"] = out["loss"] * len(features) / num_items_in_batch
        return out


def seeded(model):
    generator = torch_generator(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def make_deepfm():
    """A small DeepFM with weights large enough that every part of a pruner has something to do."""
    return seeded(DeepFM(FIELDS, dim=6, hidden=(8,)))


def make_dimreg(use_num_items=False):
    """DeepFM, DimReg with every part at work within 12 steps, 24 rows."""
    model = make_deepfm()
    model = ItemLoss(model) if use_num_items else model
    config = DimRegConfig(refresh_every=2, pair_share=0.3, warm_up=0.1, decide_by=0.5, closing=0.2, memory=0.5)
    return model, DimReg(model, keep=0.4, config=config), Clicks()


def make_dnis(use_num_items=False):
    """DeepFM, DNIS whose alpha moves between steps 3 and 9 of 12, 24 rows."""
    model = make_deepfm()
    model = ItemLoss(model) if use_num_items else model
    config = DNISConfig(blocks=3, alpha_lr=0.05, warm_up=0.25, decide_by=0.75)
    return model, DNIS(model, keep=0.4, config=config), Clicks()


def make_dnis_values(use_num_items=False):
    """The same with single values, cut at the end."""
    model = make_deepfm()
    model = ItemLoss(model) if use_num_items else model
    config = DNISConfig(blocks=3, alpha_lr=0.05, warm_up=0.25, decide_by=1.0, structured=False)
    return model, DNIS(model, size=0.5, config=config), Clicks()


def make_weighted(seed=3):
    """24 items, two of weight zero, 24 independent draws."""
    return WeightedSampler(WEIGHTS, seed=seed)


def make_weighted_without_replacement(seed=3):
    """All 22 items of positive weight, in a random order that prefers the heavy ones."""
    return WeightedSampler(WEIGHTS, replacement=False, seed=seed)


def make_systematic(seed=3):
    """30 systematic draws from 24 items: more draws than items."""
    return WeightedSampler(WEIGHTS, num_samples=30, method="systematic", seed=seed)


QUICK = {
    "L1Gates": {"strength": 1e-2, "lr": 0.1},
    "SSEDS": {"batches": 2, "decide_by": 0.6},
    "HAM": {"lr": 0.05, "decide_by": 0.7},
    "MDE": {},
    "PEP": {"lr": 1.0, "decide_by": 0.8},
    "DeepLight": {"every": 1},
    "AutoDim": {"lr": 0.05, "candidates": (0.25, 0.5, 1.0)},
    "OptEmbed": {"lr": 0.02, "search": 0.4, "population": 4},
    "LPFS": {"strength": 0.2, "lr": 0.1},
    "AutoField": {"lr": 0.05, "decide_by": 0.6},
    "OptFS": {"strength": 1e-3, "lr": 0.1},
}


def make_rival(name, use_num_items=False):
    """DeepFM and a pruner of another paper, with settings that let it act within 12 steps."""
    model = make_deepfm()
    model = ItemLoss(model) if use_num_items else model
    config = getattr(pruners, f"{name}Config")(**QUICK[name])
    return model, getattr(pruners, name)(model, size=0.6, config=config), Clicks()


for _name in QUICK:  # one importable factory each: make_l1gates, make_sseds, ...
    globals()[f"make_{_name.lower()}"] = partial(make_rival, _name)
