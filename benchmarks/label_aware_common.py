"""What the label-aware benchmarks share: planted digits, a small net, the arms' augmentations, paired intervals."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image

from tamis.core.rng import numpy_generator, seed_of, torch_generator
from tamis.transforms import OPERATIONS, LabelAwareAugment, LabelAwarePolicy

RESULTS = Path(__file__).parent / "results"
SIDE = 16
Part = tuple[Tensor, Tensor]  # images uint8 [N, C, H, W], labels [N]
Augment = Callable[[Tensor, Tensor, int], Tensor]  # images, labels, epoch -> images; row i is always sample i

NUISANCES = (("light", "dark"), ("forward", "back"), ("dim", "bright"))  # polarity, slant, brightness
HARMFUL = (
    ("Invert", "Solarize"),
    ("ShearX", "Rotate"),
    ("AutoContrast", "Equalize", "Contrast", "Brightness"),
)  # the operations that change each of them
_CODED = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}  # digit: the nuisance that is part of its label


def planted_digits(
    seed: int, *, null: bool = False, train: int = 30, reward: int = 15, views: int = 2
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The digits 0 to 5 of scikit-learn, light or dark, leaning forward or back, dim or bright, all at random.

    For 0 and 1 the polarity is part of the label, for 2 and 3 the slant, for 4 and 5 the brightness; the other two
    mean nothing. So each class has operations that turn it into another class, and two kinds of variation that an
    augmentation could teach. With ``null`` labels are digits alone: no invariance depends on the label.

    Args:
        seed: of the drawing and of the parts.
        null: see above.
        train: images a class in "train" (with ``null`` twice as many: there are half as many classes).
        reward: in "reward", likewise; all others are in "test".
        views: drawings of each test digit, its label's nuisance kept.

    Returns:
        {"train": (images uint8 [N, 1, 16, 16], labels), ...} of distinct digits, and the class names.
    """
    from sklearn.datasets import load_digits

    digits, rng = load_digits(), numpy_generator(seed, 77)
    names = [f"{d}" if null else f"{d} {word}" for d, own in _CODED.items() for word in NUISANCES[own][: 2 - null]]
    rows: dict[str, list[tuple[np.ndarray, int]]] = {"train": [], "reward": [], "test": []}
    ends = (train * (1 + null), (train + reward) * (1 + null))
    for digit, own in _CODED.items():
        seen = dict.fromkeys(range(len(names)), 0)
        for number in rng.permutation(np.flatnonzero(digits.target == digit)):
            bits = rng.integers(0, 2, 3)
            label = names.index(f"{digit}" if null else f"{digit} {NUISANCES[own][bits[own]]}")
            part = "train" if seen[label] < ends[0] else "reward" if seen[label] < ends[1] else "test"
            seen[label] += 1
            for view in range(views if part == "test" else 1):
                if view:
                    bits = np.where(np.arange(3) == own, bits, rng.integers(0, 2, 3))
                rows[part].append((_drawn_digit(digits.images[number], bits, rng), label))
    return {
        part: (torch.from_numpy(np.stack([image for image, _ in found])[:, None]), torch.tensor([y for _, y in found]))
        for part, found in rows.items()
    }, tuple(names)


def _drawn_digit(image: np.ndarray, bits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A digit of 10x10 pixels, slanted by 0.24 to 0.36 either way, at half or full ink: uint8 [16, 16]."""
    small = Image.fromarray((image / 16 * 255).astype(np.uint8)).resize((10, 10), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (SIDE, SIDE))
    left, top = 3 + rng.integers(-1, 2, 2)
    canvas.paste(small, (int(left), int(top)))
    slope = float(rng.uniform(0.24, 0.36)) * (1 if bits[1] else -1)
    leaning = (1.0, slope, -slope * SIDE / 2, 0.0, 1.0, 0.0)
    canvas = canvas.transform((SIDE, SIDE), Image.Transform.AFFINE, leaning, Image.Resampling.BILINEAR)
    pixels = (np.asarray(canvas) * (0.5 + 0.5 * bits[2])).round().astype(np.uint8)
    return 255 - pixels if bits[0] else pixels


def prepared(images: Tensor) -> Tensor:
    """The net's input."""
    return images.float() / 255 - 0.5


def net(channels: int, side: int, classes: int, seed: int, width: int = 16) -> nn.Module:
    """Two strided convolutions and two linear layers, with weights from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * width * (side // 4) ** 2, 4 * width), nn.ReLU(), nn.Linear(4 * width, classes),
        )  # fmt: skip


def train(
    model: nn.Module, part: Part, epochs: int, seed: int, augment: Augment | None = None, *, batch: int = 64,
    rate: float = 3e-3,
) -> nn.Module:  # fmt: skip
    """AdamW, warmed up and with a cosine schedule; ``augment`` sees the whole part at the beginning of each epoch."""
    images, labels = part
    steps = -(-len(images) // batch) * epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    model.train()
    for epoch in range(epochs):
        seen = images if augment is None else augment(images, labels, epoch)
        for rows in torch.randperm(len(images), generator=torch_generator(seed, 6, epoch)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(prepared(seen[rows])), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """The mean recall over classes."""
    right = torch.cat([model(prepared(images)) for images in part[0].split(500)]).argmax(1) == part[1]
    return float(np.mean([right[part[1] == label].float().mean() for label in part[1].unique()]))


def by_policy(policy: LabelAwarePolicy, seed: int) -> Augment:
    """LabelAwareAugment on the whole part."""
    augment = LabelAwareAugment(policy, seed=seed)

    def apply(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        augment.set_epoch(epoch)
        return augment.batch(images, labels, indices=range(len(images)))[0]

    return apply


def by_torchvision(transform: Any, images: Tensor, seed: int) -> Augment:
    """A torchvision transform on PIL images (made once), the global generator seeded for each epoch."""
    pictures = [to_pil_image(image) for image in images]

    def apply(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(seed, epoch))
            arrays = np.stack([np.asarray(transform(picture)) for picture in pictures])
        return torch.from_numpy(arrays).view(len(images), *images.shape[2:], -1).permute(0, 3, 1, 2).contiguous()

    return apply


def random_policy(
    names: tuple[str, ...], count: int, seed: int, spared: Callable[[str], Sequence[str]] = lambda name: ()
) -> LabelAwarePolicy:
    """Triples drawn at random, others for each class, without the operations in ``spared(name)``."""
    rng = numpy_generator(seed, 9)
    allowed = [[at for at, op in enumerate(OPERATIONS) if op not in spared(name)] for name in names]
    triples = np.stack([rng.choice(places, (count, 3)) for places in allowed])
    return LabelAwarePolicy(classes=names, triples=torch.from_numpy(triples.astype(np.uint8)))


def harmful(name: str) -> tuple[str, ...]:
    """The operations that change the label of a planted class."""
    return next((ops for words, ops in zip(NUISANCES, HARMFUL, strict=True) if any(w in name for w in words)), ())


def interval(differences: list[float]) -> list[float]:
    """The 95 % t-interval of the mean of paired differences; of one, no interval."""
    from scipy.stats import t

    values = np.array(differences)
    if len(values) < 2:
        return []
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return [float(values.mean()) - half, float(values.mean()) + half]


def gains(runs: dict[str, Any], ours: str) -> dict[str, Any]:
    """Mean accuracy of each arm, and ours minus it, paired by seed."""
    table: dict[str, Any] = {}
    for arm in {arm: None for run in runs.values() for arm in run["scores"]}:
        done = [run["scores"] for run in runs.values() if arm in run["scores"]]
        table[arm] = {"mean": float(np.mean([scores[arm] for scores in done])), "seeds": len(done)}
        ahead = [scores[ours] - scores[arm] for scores in done if ours in scores]
        if arm != ours and ahead:
            table[arm] |= {f"{ours} minus it": float(np.mean(ahead)), "95 %": interval(ahead)}
    return {"test accuracy": table}


def write(name: str, content: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json, over what was there."""
    import torchvision

    RESULTS.mkdir(exist_ok=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
                "numpy": np.__version__}  # fmt: skip
    text = json.dumps({"benchmark": name, "versions": versions, **content}, indent=1, sort_keys=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
