"""Every pruner of another paper, ready to train a small DeepFM: what their tests share."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tamis import pruners
from tests.unit.dimreg_tools import STEPS, batches, make

QUICK: dict[str, dict[str, Any]] = {
    "L1Gates": {"strength": 1e-3},
    "SSEDS": {"batches": 2},
    "HAM": {"lr": 0.05},
    "MDE": {},
    "PEP": {"lr": 0.5, "threshold": "column"},
    "DeepLight": {"every": 2},
    "AutoDim": {"lr": 0.05, "candidates": (0.25, 0.5, 1.0)},
    "OptEmbed": {"lr": 0.02, "search": 0.3, "population": 6},
    "LPFS": {"strength": 0.5},
    "AutoField": {"lr": 0.05},
    "OptFS": {"strength": 1e-4, "lr": 0.05},
}
DECIDES_EARLY = ("L1Gates", "SSEDS", "HAM", "PEP", "DeepLight", "AutoDim", "LPFS", "AutoField", "OptFS")
SIZE = 0.5


def pruner_of(name: str, model: Any = None, *, size: float | None = SIZE, steps: int = STEPS, **changes: Any) -> Any:
    config = getattr(pruners, f"{name}Config")(**(QUICK[name] | changes))
    return getattr(pruners, name)(make() if model is None else model, size, config=config, total_steps=steps)


def run(pruner: Any, steps: int | None = None, lr: float = 0.02, data: Any = None) -> torch.optim.Optimizer:
    """The plain loop of every pruner."""
    steps = pruner._total_steps if steps is None else steps
    optimizer = torch.optim.Adam(pruner.model.parameters(), lr=lr)
    data = data or batches(2 * steps)
    for batch, other in zip(data[:steps], data[steps:], strict=True):
        optimizer.zero_grad()
        (pruner.model(**batch)["loss"] + pruner.penalty()).backward()
        optimizer.step()
        losses = {"validation_loss": lambda other=other: pruner.model(**other)["loss"]} if pruner.validates else {}
        pruner.step(**losses)
    return optimizer


def trained(name: str, **options: Any) -> tuple[Any, Any, torch.optim.Optimizer]:
    """The pruner after its training, a copy of the model from before it, and the optimizer."""
    model = make()
    start = copy.deepcopy(model)
    pruner = pruner_of(name, model, **options)
    return pruner, start, run(pruner)
