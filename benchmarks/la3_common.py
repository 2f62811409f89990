"""What the la3_* benchmarks share: planted digits, a small net, the arms' augmentations, and paired intervals."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tamis._core.rng import numpy_generator, seed_of, torch_generator
from tamis.transforms import OPERATIONS, LabelAwareAugment, LabelAwarePolicy

RESULTS = Path(__file__).parent / "results"
SIDE, BATCH = 16, 64
Augment = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # images, labels, indices, epoch -> images


def planted_digits(seed: int, *, null: bool = False, each: int = 30) -> tuple[dict[str, Any], tuple[str, ...]]:
    """scikit-learn's digits on a 16x16 canvas, in three disjoint parts: train, reward (``each`` a class), test (rest).

    A digit is light on dark or dark on light, and lies left or right. For 0, 1, 2 the polarity is part of the label
    (so Invert is wrong), for 3, 4, 5 the side is (so TranslateX is wrong), for 6 to 9 neither. With ``null`` neither
    is, for any digit: no invariance depends on the label.

    Returns:
        {"train": (images uint8 [N, 1, 16, 16], labels), ...} and the class names.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    rng = numpy_generator(seed, 77)
    coded = {} if null else {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    names: list[str] = []
    for digit in range(10):
        names += [f"{digit}"] if digit not in coded else [f"{digit} {word}" for word in _WORDS[coded[digit]]]
    canvas = np.zeros((len(digits.target), SIDE, SIDE))
    labels = np.empty(len(canvas), dtype=np.int64)
    for row, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        dark, right = rng.integers(0, 2, 2)
        top, left = rng.integers(2, 7), rng.integers(0, 2) + (7 if right else 0)
        canvas[row, top : top + 8, left : left + 8] = image / 16 * 255
        canvas[row] = 255 - canvas[row] if dark else canvas[row]
        name = f"{digit}" if digit not in coded else f"{digit} {_WORDS[coded[digit]][(dark, right)[coded[digit]]]}"
        labels[row] = names.index(name)
    order = rng.permutation(len(canvas))
    ranks = np.empty(len(order), dtype=np.int64)
    for label in range(len(names)):
        mine = order[labels[order] == label]
        ranks[mine] = np.arange(len(mine))
    images = torch.from_numpy(canvas.round().astype(np.uint8)[:, None])
    parts = {"train": ranks < each, "reward": (ranks >= each) & (ranks < 2 * each), "test": ranks >= 2 * each}
    found = torch.from_numpy(labels)
    return {
        part: (images[torch.from_numpy(mask)], found[torch.from_numpy(mask)]) for part, mask in parts.items()
    }, tuple(names)


_WORDS = {0: ("light", "dark"), 1: ("left", "right")}


def net(classes: int, seed: int) -> nn.Module:
    """A convolution and two linear layers, which see positions, with weights from ``seed``."""
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 64, 96), nn.ReLU(),
        nn.Linear(96, classes),
    )  # fmt: skip
    generator = torch_generator(seed, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 64
            parameter.uniform_(-(fan**-0.5), fan**-0.5, generator=generator)
    return model


def train(
    part: tuple[Tensor, Tensor], classes: int, epochs: int, seed: int, augment: Augment | None = None
) -> nn.Module:
    """Adam with a cosine schedule; ``augment`` works on each batch."""
    images, labels = part
    model = net(classes, seed)
    steps = -(-len(images) // BATCH) * epochs
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        for rows in torch.randperm(len(images), generator=torch_generator(seed, 6, epoch)).split(BATCH):
            batch = images[rows] if augment is None else augment(images[rows], labels[rows], rows, epoch)
            optimizer.zero_grad()
            F.cross_entropy(model(batch.float() / 255), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """The mean recall over classes."""
    right = model(part[0].float() / 255).argmax(1) == part[1]
    return float(np.mean([right[part[1] == label].float().mean() for label in part[1].unique()]))


def by_policy(policy: LabelAwarePolicy, seed: int) -> Augment:
    """LabelAwareAugment on batches."""
    augment = LabelAwareAugment(policy, seed=seed)

    def apply(images: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        augment.set_epoch(epoch)
        return augment.batch(images, labels, indices=rows)[0]

    return apply


def by_torchvision(transform: Any, seed: int) -> Augment:
    """A torchvision transform, image by image, its global generator seeded for each batch."""

    def apply(images: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(seed, epoch, int(rows[0])))
            return torch.stack([transform(image) for image in images])

    return apply


def random_policy(names: tuple[str, ...], count: int, seed: int) -> LabelAwarePolicy:
    """Triples drawn at random, others for each class."""
    triples = numpy_generator(seed, 9).integers(0, len(OPERATIONS), (len(names), count, 3))
    return LabelAwarePolicy(classes=names, triples=torch.from_numpy(triples.astype(np.uint8)))


def interval(differences: list[float]) -> dict[str, float]:
    """Mean of paired differences with its 95 % t-interval."""
    from scipy.stats import t

    values = np.array(differences)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "low": float(values.mean()) - half, "high": float(values.mean()) + half}


def write(name: str, content: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json, over what was there."""
    import torchvision

    RESULTS.mkdir(exist_ok=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
                "numpy": np.__version__}  # fmt: skip
    text = json.dumps({"benchmark": name, "versions": versions, **content}, indent=1, sort_keys=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
