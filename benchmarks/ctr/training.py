"""Training loop of the CTR benchmarks: Adam (SparseAdam on sparse tables), early stop, best epoch by validation AUC."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.ctr.data import CTRData

__all__ = ["Run", "auc", "optimizers", "predict", "train"]


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve; ties count half."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    ones = label > 0.5
    positives, negatives = int(ones.sum()), int((~ones).sum())
    return float((ranks[ones].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@torch.no_grad()
def predict(model: nn.Module, ids: Tensor, batch: int = 16384) -> np.ndarray:
    """Logits [n] in evaluation mode."""
    model.eval()
    logits = torch.cat([model(part)["logits"] for part in ids.split(batch)]).double().numpy()
    model.train()
    return logits


def optimizers(model: nn.Module, lr: float = 1e-3, decay: float = 0.0) -> list[torch.optim.Optimizer]:
    """SparseAdam for parameters of sparse tables, Adam for the others (``decay``: decoupled, on the others)."""
    sparse = [m.weight for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
    known = {id(weight) for weight in sparse}
    dense = [p for p in model.parameters() if id(p) not in known]
    both: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, lr=lr, weight_decay=decay, fused=True)]
    return both + ([torch.optim.SparseAdam(sparse, lr=lr)] if sparse else [])


@dataclass
class Run:
    """Validation score after each epoch, test score at the best of them, seconds and samples of training."""

    validation: list[float] = field(default_factory=list)
    test: float = 0.0
    seconds: float = 0.0
    best: int = -1
    samples: int = 0


def train(
    model: nn.Module,
    data: CTRData,
    *,
    epochs: int,
    seed: int,
    batch: int = 2048,
    lr: float = 1e-3,
    row_decay: float = 0.0,
    pruner: Any = None,
    patience: int = 3,
    patience_from: int = 0,
    score: Callable[[np.ndarray, np.ndarray], float] = auc,
) -> Run:
    """Train; keep the weights of the best epoch (from ``patience_from`` on) by validation ``score``.

    A training stops early when ``patience`` epochs in a row were not the best.

    Args:
        model: from `examples.ctr_models`.
        data: its parts.
        epochs: at most.
        seed: of the batches' order.
        batch: rows per step.
        lr: of all optimizers.
        row_decay: L2 on the rows that the tables return, per example.
        pruner: a `tamis.pruners.DimReg` that goes along.
        patience: epochs without a new best after which it stops.
        patience_from: the first epoch that may be the best.
        score: of (logits, labels), larger is better.
    """
    rows: list[Tensor] = []
    hooks = [table.register_forward_hook(lambda *call: rows.append(call[2])) for table in model.embeddings.values()]
    generator = torch.Generator().manual_seed(seed)
    both, run, best_state = optimizers(model, lr), Run(), None
    ids, labels = data.train
    steps = len(ids) // batch
    model.train()
    for epoch in range(epochs):
        started = time.perf_counter()
        order = torch.randperm(len(ids), generator=generator)[: steps * batch].view(steps, batch)
        for chosen in order:
            rows.clear()
            loss = model(ids[chosen], labels[chosen])["loss"]
            if row_decay:
                loss = loss + row_decay / batch * sum(row.square().sum() for row in rows)
            if pruner is not None:
                loss = loss + pruner.penalty()
            for optimizer in both:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in both:
                optimizer.step()
            if pruner is not None:
                pruner.step()
        run.seconds += time.perf_counter() - started
        run.samples += steps * batch
        run.validation.append(score(predict(model, data.validation[0]), data.validation[1].numpy()))
        if epoch >= patience_from and run.validation[-1] >= max(run.validation[patience_from:]):
            run.best, best_state = epoch, copy.deepcopy(model.state_dict())
        if run.best >= 0 and epoch - run.best >= patience:
            break
    for hook in hooks:
        hook.remove()
    if best_state is not None:
        model.load_state_dict(best_state)
    run.test = score(predict(model, data.test[0]), data.test[1].numpy())
    return run
