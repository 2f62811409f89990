"""A small DeepFM, its data and a plain loop for DimReg: what its tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from examples.ctr_models import MODELS
from tamis.pruners import DimReg, DimRegConfig

SIZES = {"user": 60, "item": 40, "colour": 5}
STEPS = 60
QUICK = DimRegConfig(refresh_every=5, min_rows=20, warm_up=0.05, decide_by=0.4, closing=0.05)


def batches(steps: int = STEPS) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, size, (steps, 32), generator=generator) for size in SIZES.values()]
    features = torch.stack(ids, dim=2)
    return [{"features": f, "labels": ((f[:, 0] + f[:, 1]) % 2).float()} for f in features]


def make(name: str = "deepfm", dim: int = 8, sparse: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251  (the models start as users' models do)
        return MODELS[name](SIZES, dim=dim, hidden=(16,), sparse=sparse)


def train(model: nn.Module, pruner: DimReg, data: list[dict[str, torch.Tensor]], optimizer: Any = None) -> Any:
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-2)
    for batch in data:
        optimizer.zero_grad()
        (model(**batch)["loss"] + pruner.penalty()).backward()
        optimizer.step()
        pruner.step()
    return optimizer


def trained(name: str = "deepfm", keep: float | None = 0.25, **options: Any) -> tuple[nn.Module, DimReg, Any]:
    model = make(name)
    pruner = DimReg(model, keep=keep, config=options.pop("config", QUICK), total_steps=STEPS, **options)
    return model, pruner, train(model, pruner, batches())
