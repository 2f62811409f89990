"""LA3 on a small part of CIFAR-10, against augmentations that cost no search.

    python -m benchmarks.label_aware_cifar10 --data ../shared/data [--seeds 0 1 2 3 4]

Each seed draws 2,500 training images (250 a class), 2,000 for the model that the search judges with and 500 reward
images, and a small residual net is trained on all of them, scaled down to 16x16, for the same number of epochs by
every arm; "long" has besides what LA3 spent on its search (the model and the passes). As in the authors' code each
arm crops, flips and cuts out afterwards; "none" does only that. Tested on 5,000 test images. Nothing was tuned.

A seed takes about two minutes of one core; seeds that are in results/label_aware_cifar10.json already are kept.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from benchmarks.label_aware_common import (
    RESULTS,
    Augment,
    Part,
    accuracy,
    by_policy,
    by_torchvision,
    gains,
    prepared,
    random_policy,
    train,
    write,
)
from benchmarks.label_aware_planted import PREDICTOR, mean_quality, predictor_quality
from tamis.core.rng import numpy_generator, torch_generator
from tamis.search import search_label_aware
from tamis.search.label_aware.triples import build_policy

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, TRIPLES = 16, 100


def cifar10(folder: Path, file: str, each: int, seed: int) -> Part:
    """``each`` images a class of a parquet file, drawn by ``seed``, at 16x16; class by class in turn."""
    import pyarrow.parquet as parquet
    from PIL import Image

    table = parquet.read_table(folder / "cifar10" / file, columns=["image", "label"])
    labels = table["label"].to_numpy()
    rng = numpy_generator(seed, 31)
    rows = np.stack([rng.permutation(np.flatnonzero(labels == label))[:each] for label in range(10)], 1).flatten()
    column, images = table["image"], []
    for row in rows:
        picture = Image.open(io.BytesIO(column[int(row)].as_py())).convert("RGB")
        images.append(np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[rows]).long()


class Block(nn.Module):
    """A residual block that halves the sides and doubles the channels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        width = 2 * inputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.short = nn.Conv2d(inputs, width, 1, 2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.body(images) + self.short(images))


def resnet(seed: int, width: int = 16) -> nn.Module:
    """A stem and two residual blocks, 0.1 million weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            Block(width), Block(2 * width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10),
        ).to(memory_format=torch.channels_last)  # fmt: skip


def then_standard(first: Augment | None, seed: int) -> Augment:
    """After ``first``: shift by up to 2 pixels, flip, cut out 8x8 (4, flip and 16 at 32x32)."""

    def apply(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        images = images if first is None else first(images, labels, epoch)
        count, generator = len(images), torch_generator(seed, 8, epoch)
        padded = F.pad(images, (2, 2, 2, 2))
        top, left = torch.randint(0, 5, (2, count, 1), generator=generator)
        places = torch.arange(SIDE)
        flipped = torch.rand(count, 1, generator=generator) < 0.5
        rows, columns = top + places, left + torch.where(flipped, places.flip(0), places)
        images = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        images = images.permute(0, 3, 1, 2).contiguous()
        y, x = torch.randint(0, SIDE, (2, count, 1), generator=generator)
        hidden = ((places - y).abs() < SIDE // 4)[:, :, None] & ((places - x).abs() < SIDE // 4)[:, None, :]
        return images.masked_fill(hidden[:, None], 127)

    return apply


def one_seed(seed: int, folder: Path, test: Part, sizes: dict[str, int]) -> dict[str, Any]:
    """All arms of one seed."""
    each, held, epochs, iterations = (sizes[name] for name in ("images", "reward images", "epochs", "iterations"))
    images, labels = cifar10(folder, "train.parquet", each // 10, seed)
    reward, kept = (images[:held], labels[:held]), (images[held:], labels[held:])

    def fit(part: Part, rounds: int, first: Augment | None = None) -> nn.Module:
        return train(resnet(seed), part, rounds, seed, then_standard(first, seed))

    theta = fit(kept, epochs)
    options = dict(classes=NAMES, iterations=iterations, warmup=2 * iterations // 5, triples=TRIPLES, seed=seed,
                   predictor=PREDICTOR, reward="probability", prepare=prepared)  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        la3 = search_label_aware(theta, reward, out=out, **options)
        quality = predictor_quality(Path(out) / "journal.jsonl", len(NAMES))
    shared = search_label_aware(theta, reward, label_aware=False, **options)
    paid = la3.search.budget["sample_forwards"] + 3 * len(kept[0]) * epochs
    longer = epochs + math.ceil(paid / (3 * each))
    randaugment = by_torchvision(v2.RandAugment(), images, seed)
    arms: dict[str, tuple[int, Augment | None]] = {
        "LA3": (epochs, by_policy(la3, seed)),
        "search without labels": (epochs, by_policy(shared, seed)),
        "top-k without mRMR": (epochs, by_policy(build_policy(la3, triples=TRIPLES, alpha=0.0), seed)),
        "random triples": (epochs, by_policy(random_policy(NAMES, TRIPLES, seed), seed)),
        "RandAugment": (epochs, randaugment),
        "TrivialAugment": (epochs, by_torchvision(v2.TrivialAugmentWide(), images, seed)),
        "none": (epochs, None),
        "RandAugment, long": (longer, randaugment),
        "none, long": (longer, None),
    }
    scores = {}
    for name, (rounds, augment) in arms.items():
        scores[name] = accuracy(fit((images, labels), rounds, augment), test)
        print(f"seed {seed}  {name:24s} {scores[name]:.4f}", flush=True)
    return {
        "scores": scores, "epochs": {"all arms": epochs, "long": longer}, "predictor": quality,
        "judging model": accuracy(theta, test), "search's sample_forwards": paid,
        "sample_forwards": 3 * each * epochs,
        "shares": dict(zip(NAMES, la3.shares().round(4).tolist(), strict=True)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with cifar10/train.parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--quick", action="store_true", help="one seed, a short search")
    args = parser.parse_args()
    if not (args.data / "cifar10" / "train.parquet").exists():
        raise SystemExit(f"no {args.data}/cifar10/train.parquet: name the folder with --data")
    torch.set_num_threads(1)
    sizes = {"images": 2500, "reward images": 500, "epochs": 20, "iterations": 100}
    if args.quick:
        sizes = {"images": 300, "reward images": 100, "epochs": 2, "iterations": 10}
    name = "label_aware_cifar10" + ("_quick" if args.quick else "")
    file = RESULTS / f"{name}.json"
    runs = json.loads(file.read_text())["figures"]["runs"] if file.exists() and not args.quick else {}
    test = cifar10(args.data, "test.parquet", 20 if args.quick else 500, 0)
    for seed in map(str, args.seeds[:1] if args.quick else args.seeds):
        if seed not in runs:
            runs[seed] = one_seed(int(seed), args.data, test, sizes)
        first = next(iter(runs.values()))
        write(name, {
            "seeds": sorted(map(int, runs)), "data": "CIFAR-10 (recompressed), 2,500 images at 16x16",
            "budget": {**sizes, "epochs of long": first["epochs"]["long"],
                       "sample_forwards of a training": first["sample_forwards"],
                       "of LA3's search besides": first["search's sample_forwards"]},
            "figures": {**gains(runs, "LA3"), "predictor, on held-out iterations": mean_quality(runs), "runs": runs},
        })  # fmt: skip
    print(json.dumps(gains(runs, "LA3"), indent=1))


if __name__ == "__main__":
    main()
