"""What the swift_* benchmarks share: CIFAR-10 on one CPU core, symmetric label noise, a small net, and the baselines.

So that 40 trials of 5 epochs take seconds on one core, images are encoded once, without labels, by random whitened
6x6 patches (Coates, Ng and Lee, "An analysis of single-layer networks in unsupervised feature learning", 2011) and
PCA, and the trained net is an MLP on that code. It memorises noisy labels as larger nets do.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import platform
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from tamis.core.errors import NoEffectWarning
from tamis.core.rng import numpy_generator, seed_of, torch_generator
from tamis.features.samples import sample_features
from tamis.features.table import FeatureTable
from tamis.samplers.weighted.sampler import WeightedSampler

DATA = Path(__file__).parents[2] / "shared" / "data"
PATCHES, COMPONENTS, CODE = 256, 256, 128  # PCA keeps 256 components on disk; the net sees the first CODE
BATCH = 256
SHARE_EPOCHS, TRIAL_EPOCHS, FINAL_EPOCHS = 4, 5, 20


@dataclass
class Task:
    """One seed's data: noisy train and search validation, clean test; disjoint."""

    train: TensorDataset
    valid: TensorDataset
    test: TensorDataset
    clean: np.ndarray  # bool [n_train], the oracle's knowledge
    noise: float
    seed: int


def encoded(data: Path, patches: int = PATCHES) -> dict[str, np.ndarray]:
    """The codes and labels of CIFAR-10's train and test images; made once and kept in the temporary folder."""
    cache = Path(tempfile.gettempdir()) / f"tamis-cifar10-{patches}-{COMPONENTS}.npz"
    if cache.exists():
        return dict(np.load(cache))
    images, labels = zip(*(_decode(data / "cifar10" / f"{part}.parquet") for part in ("train", "test")), strict=True)
    generator = torch_generator(0)
    train = torch.from_numpy(images[0])
    picks = torch.randint(len(train), (20_000,), generator=generator)
    corners = torch.randint(27, (20_000, 2), generator=generator)
    sample = torch.stack(
        [train[i, :, r : r + 6, c : c + 6].flatten() for i, (r, c) in zip(picks, corners.tolist(), strict=True)]
    ).float()
    sample = (sample - sample.mean(1, keepdim=True)) / (sample.var(1, keepdim=True) + 10).sqrt()
    values, vectors = torch.linalg.eigh(torch.cov(sample.T))
    whiten = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    filters = F.normalize(sample[:patches] @ whiten, dim=1)
    codes = [torch.cat([_encode(torch.from_numpy(part[i : i + 500]), sample, whiten, filters)
                        for i in range(0, len(part), 500)]) for part in images]  # fmt: skip
    mean, std = codes[0].mean(0), codes[0].std(0) + 1e-6
    codes = [(code - mean) / std for code in codes]
    _, basis = torch.linalg.eigh(codes[0].T @ codes[0] / len(codes[0]))
    codes = [code @ basis[:, -COMPONENTS:] for code in codes]
    scale = codes[0].std()
    result = {"train_x": (codes[0] / scale).numpy(), "train_y": labels[0], "test_x": (codes[1] / scale).numpy(),
              "test_y": labels[1]}  # fmt: skip
    np.savez(cache, **result)
    return result


def _decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 3, 32, 32] and int64 [N]."""
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(path, columns=["image", "label"])
    images = [np.asarray(Image.open(io.BytesIO(raw.as_py()))) for raw in table["image"]]
    return np.stack(images).transpose(0, 3, 1, 2), table["label"].to_numpy().astype(np.int64)


def _encode(images: Tensor, sample: Tensor, whiten: Tensor, filters: Tensor) -> Tensor:
    """Soft-thresholded responses of normalised, whitened patches, summed over quarters: [B, 4 * patches]."""
    columns = F.unfold(images.float(), 6).transpose(1, 2)  # [B, 729, 108]
    columns = (columns - columns.mean(2, keepdim=True)) / (columns.var(2, keepdim=True) + 10).sqrt()
    response = (columns @ (whiten @ filters.T) - 0.5).relu().transpose(1, 2).reshape(len(images), -1, 27, 27)
    return F.adaptive_avg_pool2d(response, 2).flatten(1)


def make_task(
    codes: dict[str, np.ndarray], noise: float, seed: int, *, train: int = 10_000, valid: int = 2_000
) -> Task:
    """A subset drawn by ``seed``; a share ``noise`` of train and validation labels moved to another class."""
    rng = numpy_generator(seed, 17)
    order = rng.permutation(len(codes["train_y"]))[: train + valid]
    labels = codes["train_y"][order]
    flip = rng.random(len(labels)) < noise
    noisy = np.where(flip, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    x, y = torch.from_numpy(codes["train_x"][order, -CODE:]), torch.from_numpy(noisy)
    test = TensorDataset(torch.from_numpy(codes["test_x"][:, -CODE:]), torch.from_numpy(codes["test_y"]))
    return Task(
        TensorDataset(x[:train], y[:train]), TensorDataset(x[train:], y[train:]), test, ~flip[:train], noise, seed
    )


def make_net(seed: int, width: int = 256, depth: int = 1) -> nn.Sequential:
    """An MLP whose weights are a function of ``seed``."""
    sizes = [CODE, *[width] * depth]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(sizes[-1], 10))
    generator = torch_generator(seed, 3)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) * math.sqrt(2 / p.shape[-1]) if p.ndim > 1 else p * 0
    return net


def train(net: nn.Module, data: TensorDataset, sampler: Any, epochs: int, *, lr: float = 0.1, decay: float = 0.0,
          keep: Any = None, each_epoch: Any = None) -> None:  # fmt: skip
    """SGD with momentum, weight decay 5e-4 and a cosine from ``lr`` to ``decay * lr``.

    ``keep(losses, epoch)`` may choose a subset of each batch (small-loss selection); ``each_epoch(epoch)`` looks on.
    """
    x, y = data.tensors
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * math.ceil(len(sampler) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: decay + (1 - decay) * 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps)))
    )
    net.train()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order = torch.from_numpy(np.concatenate(list(sampler.arrays())))
        for batch in order.split(BATCH):
            loss = F.cross_entropy(net(x[batch]), y[batch], reduction="none")
            loss = loss.mean() if keep is None else keep(loss, epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if each_epoch is not None:
            each_epoch(epoch)


@torch.no_grad()
def accuracy(net: nn.Module, data: TensorDataset) -> float:
    net.eval()
    x, y = data.tensors
    hits = sum(int((net(x[i : i + 2000]).argmax(1) == y[i : i + 2000]).sum()) for i in range(0, len(y), 2000))
    net.train()
    return hits / len(y)


def weighted(p: Any, seed: int, num_samples: int | None = None) -> WeightedSampler:
    """A sampler; a uniform one is fine here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        return WeightedSampler(p, num_samples, seed=seed)


def uniform(task: Task, seed: int) -> WeightedSampler:
    """Every sample once an epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        return WeightedSampler(np.ones(len(task.train)), replacement=False, seed=seed)


def shared_weights(task: Task, width: int = 256, depth: int = 1) -> tuple[nn.Module, FeatureTable, float]:
    """w_share after a few uniform epochs, its features, and how well its loss tells wrong labels (AUC)."""
    net = make_net(task.seed, width, depth)
    train(net, task.train, uniform(task, task.seed), SHARE_EPOCHS)
    features = sample_features(net, task.train, batch_size=2000)
    return net, features, auc(features["loss"].numpy(), ~task.clean)


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive scores above a negative; 0.5 without either."""
    if positive.all() or not positive.any():
        return 0.5
    ranks = np.argsort(np.argsort(score)) + 1.0
    return float((ranks[positive].mean() - (positive.sum() + 1) / 2) / (~positive).sum())


def fit_from(net: nn.Module, task: Task, *, epochs: int = TRIAL_EPOCHS) -> Any:
    """The objective of a search: fine-tune ``net``, score on the noisy validation data."""

    def fit(sampler: Any) -> float:
        train(net, task.train, sampler, epochs)
        return accuracy(net, task.valid)

    return fit


def final(task: Task, sampler: Any, *, seed: int | None = None, keep: Any = None, width: int = 256, depth: int = 1,
          epochs: int = FINAL_EPOCHS) -> dict[str, float]:  # fmt: skip
    """Train from scratch; clean test accuracy after the last epoch and at the epoch that validation likes best."""
    net = make_net(seed_of(task.seed if seed is None else seed, 9), width, depth)
    rows: dict[str, float] = {"valid": -1.0}

    def look(epoch: int) -> None:
        valid = accuracy(net, task.valid)
        if valid > rows["valid"] or epoch == epochs - 1:
            test = accuracy(net, task.test)
            rows["last"] = test
            if valid > rows["valid"]:
                rows.update(valid=valid, stopped=test)

    train(net, task.train, sampler, epochs, keep=keep, each_epoch=look)
    return rows


def paired(a: list[float], b: list[float]) -> dict[str, float]:
    """Mean of a - b with its 95 % interval (Student's t), over runs that share a seed."""
    from scipy import stats

    d = np.array(a) - np.array(b)
    half = float(stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else math.nan
    return {"mean": round(float(d.mean()), 5), "half_width_95": round(half, 5) if len(d) > 1 else -1.0, "n": len(d)}


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "numpy", "bayesian-optimization", "optuna")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the JSON so that a reader never sees half of it."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    temporary.replace(path)
