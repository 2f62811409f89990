"""Images per second of LabelAwareAugment against the transforms people use; ratios of CPU time, interleaved in one run.

    python -m benchmarks.label_aware_speed              results/label_aware_speed.json
    python -m benchmarks.label_aware_speed --quick

One process, one thread, a policy of 100 random triples of all 16 operations (Identity among them, 1 in 16). Ratios
are to torchvision v2 RandAugment with three operations on PIL images; kornia (floats in batches of 32, its own
magnitudes) and albumentations (numpy arrays, three of its transforms that are most like the operations) are measured
where they are installed, and need not be. Also: what fast mode changes, stage 2 for 1,000 labels, and the cost of a
search's iteration over that of one augmented evaluation pass.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from benchmarks.label_aware_common import RESULTS, random_policy, write
from tamis.core.rng import numpy_generator
from tamis.optimizers.mrmr import select
from tamis.optimizers.predictor import PredictorConfig
from tamis.search.label_aware.reward import RewardImages
from tamis.search.label_aware.triples import SPACE, _Exploration
from tamis.transforms import LabelAwareAugment, MenuPolicy, apply_operations
from tamis.transforms.images.ops import CODES, OPERATIONS, Drawn


def pictures(side: int, count: int = 8) -> list[Image.Image]:
    """Smooth random images."""
    rng = numpy_generator(0, side)
    small = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return [Image.fromarray(array).resize((side, side), Image.Resampling.BICUBIC) for array in small]


def ratios(base: str, work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median over rounds of the base's CPU time over each contender's, all measured in turn in each round."""
    for run in work.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: float(np.median(np.array(times[base]) / np.array(taken))) for name, taken in times.items()}


def transforms(side: int, repeats: int, rounds: int) -> dict[str, float]:
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

    images = pictures(side)
    tensors = [F.pil_to_tensor(image) for image in images]
    batch = torch.stack(tensors * 16)
    policy = random_policy(("a", "b"), 100, 0)
    exact, fast = LabelAwareAugment(policy), LabelAwareAugment(policy, mode="fast")
    menu = LabelAwareAugment(MenuPolicy.plain(("a", "b")))
    labels = torch.zeros(len(batch), dtype=torch.int64)
    timm = {"mean": (128, 128, 128)}

    def each(transform: Callable[[Any], Any], inputs: list[Any]) -> Callable[[], None]:
        def run() -> None:
            for at in range(repeats):
                transform(inputs[at % len(inputs)])

        return run

    def batched() -> None:
        for _ in range(max(1, repeats // len(batch))):
            exact.batch(batch, labels)

    work = {
        "torchvision RandAugment(3), PIL": each(v2.RandAugment(3), images),
        "tamis exact, PIL": each(lambda image: exact(image, 0), images),
        "tamis fast, PIL": each(lambda image: fast(image, 0), images),
        "tamis, tensors": each(lambda image: exact(image, 0), tensors),
        "tamis, batch of 128 tensors": batched,
        "tamis menu of RandAugment(2), PIL": each(lambda image: menu(image, 0), images),
        "torchvision RandAugment(3), tensors": each(v2.RandAugment(3), tensors),
        "torchvision RandAugment(2), PIL": each(v2.RandAugment(2), images),
        "torchvision TrivialAugmentWide, PIL (1 operation)": each(v2.TrivialAugmentWide(), images),
        "torchvision AutoAugment CIFAR10, PIL (about 1.3)": each(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), images),
        "timm rand-m9-n3-p1 (its bicubic)": each(rand_augment_transform("rand-m9-n3-p1", dict(timm)), images),
        "timm original (about 1.3)": each(auto_augment_transform("original", dict(timm)), images),
    }
    images_run = dict.fromkeys(work, repeats)
    images_run["tamis, batch of 128 tensors"] = max(1, repeats // len(batch)) * len(batch)
    if kornia := of_kornia(tensors):
        work["kornia RandAugment(3), batch of 32 floats"] = kornia
        images_run["kornia RandAugment(3), batch of 32 floats"] = 32
    if albumentations := of_albumentations():
        work["albumentations SomeOf(3)"] = each(albumentations, [np.asarray(image) for image in images])
        images_run["albumentations SomeOf(3)"] = repeats
    found = ratios("torchvision RandAugment(3), PIL", work, rounds)
    return {name: ratio * images_run[name] / repeats for name, ratio in found.items()}


def of_kornia(tensors: list[torch.Tensor]) -> Callable[[], Any] | None:
    """One batch through kornia's RandAugment, if kornia is there."""
    try:
        from kornia.augmentation.auto import RandAugment
    except ImportError:
        print("kornia is not installed: its row is left out")
        return None
    batch, transform = torch.stack(tensors * 4).float() / 255, RandAugment(n=3, m=10)
    return lambda: transform(batch)


def of_albumentations() -> Callable[[Any], Any] | None:
    """Three of albumentations' transforms that are like AutoAugment's operations, if it is there."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or it asks the network for its version
    try:
        import albumentations as A
    except ImportError:
        print("albumentations is not installed: its row is left out")
        return None
    operations = [
        A.Affine(shear={"x": (-17, 17), "y": 0}, p=1), A.Affine(shear={"x": 0, "y": (-17, 17)}, p=1),
        A.Affine(translate_percent={"x": (-0.45, 0.45), "y": 0}, p=1),
        A.Affine(translate_percent={"x": 0, "y": (-0.45, 0.45)}, p=1), A.Affine(rotate=(-30, 30), p=1),
        A.AutoContrast(p=1), A.InvertImg(p=1), A.Equalize(p=1), A.Solarize(p=1), A.Posterize(num_bits=(4, 8), p=1),
        A.ColorJitter(brightness=0, contrast=(0.1, 1.9), saturation=0, hue=0, p=1),
        A.ColorJitter(brightness=0, contrast=0, saturation=(0.1, 1.9), hue=0, p=1),
        A.ColorJitter(brightness=(0.1, 1.9), contrast=0, saturation=0, hue=0, p=1), A.Sharpen(p=1),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(0.01, 0.2), hole_width_range=(0.01, 0.2), p=1),
    ]  # fmt: skip
    transform = A.SomeOf(operations, n=3, replace=True, p=1)
    return lambda image: transform(image=image)


def fast_difference(side: int, draws: int) -> dict[str, float]:
    """How many random triples, and how many of their pixels, fast mode changes."""
    rng, images = numpy_generator(1, side), pictures(side)
    changed, same, levels = 0, [], []
    for number in range(draws):
        drawn = [Drawn(int(rng.integers(16)), int(rng.integers(CODES)), rng.random(), rng.random()) for _ in range(3)]
        image = images[number % len(images)]
        one, other = (np.asarray(apply_operations(image, drawn, fast=fast)).astype(int) for fast in (False, True))
        if not np.array_equal(one, other):
            changed += 1
            same.append((one == other).all(-1).mean())
            levels.append(np.abs(one - other).mean())
    return {"share of triples changed": changed / draws, "pixels equal in those": float(np.mean(same)),
            "mean difference in those, levels": float(np.mean(levels))}  # fmt: skip


def search_cost(trials: int) -> dict[str, float]:
    """CPU time of a search's dearest iteration over that of one augmented evaluation pass.

    The pass is over 1,000 images of 32x32 with a net of 30 million multiplications an image (a tenth of the WRN-40-2
    that the thesis searches with). To it comes a tenth of what training the predictor on ``trials`` iterations of
    10 labels and ranking the candidates takes, which happens once in ten iterations.
    """
    images = torch.stack([F.pil_to_tensor(image) for image in pictures(32)] * 125)
    labels = torch.arange(len(images)) % 10
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 48, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(48, 64, 3, padding=1), torch.nn.ReLU(),
        torch.nn.MaxPool2d(4), torch.nn.Flatten(), torch.nn.Linear(4096, 10),
    )  # fmt: skip
    judge = RewardImages(model, (images, labels), np.arange(10))
    judge.rewards(0, SPACE[:10])
    rng = numpy_generator(3)
    points = rng.integers(0, len(SPACE), (trials, 10))
    start = time.process_time()
    judge.rewards(1, SPACE[points[1]])
    one = time.process_time() - start
    effects = rng.normal(-0.05, 0.05, (10, len(OPERATIONS)))
    past = [{"point": row.tolist(), "rewards": effects[np.arange(10)[:, None], SPACE[row]].sum(1).tolist()}
            for row in points]  # fmt: skip
    stage = _Exploration(judge, PredictorConfig(), (10, 50, 40), "last", 0)
    stage.propose(past[:10], 10)  # what a first call imports is not counted
    start = time.process_time()
    stage.propose(past, 10)
    ten = time.process_time() - start
    return {"trials": float(trials), "images": float(len(images)), "seconds of one pass": one,
            "seconds of predictor and candidates, for ten iterations": ten,
            "iteration over one pass": 1 + ten / 10 / one}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("transforms", "stage 2", "search"), help="one part; the others are kept")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", help="not needed: the images are made here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds, name = 2 if args.quick else 5, "label_aware_speed" + ("_quick" if args.quick else "")
    file = RESULTS / f"{name}.json"
    figures: dict[str, Any] = json.loads(file.read_text())["figures"] if args.only and file.exists() else {}

    def keep(part: str, values: dict[str, float]) -> None:
        figures[part] = values
        content = {"seeds": [0], "data": "smooth random images", "budget": {"rounds": rounds}, "figures": figures}
        write(name, content)
        print(part, *(f"  {key:56s} {value:9.3f}" for key, value in values.items()), sep="\n", flush=True)

    if args.only in (None, "transforms"):
        for side, repeats in ((32, 256), (224, 128)):
            keep(f"{side}x{side}", transforms(side, repeats // 2 if args.quick else repeats, rounds))
            keep(f"fast mode, {side}x{side}", fast_difference(side, 100 if args.quick else 2000))
    if args.only in (None, "stage 2"):
        rewards = numpy_generator(2).normal(size=(100 if args.quick else 1000, len(SPACE)))
        start = time.process_time()
        select(rewards, SPACE, 100, alpha=2.5)
        keep("stage 2", {"labels": len(rewards), "CPU seconds": time.process_time() - start})
    if args.only in (None, "search"):
        keep("search", search_cost(20 if args.quick else 500))


if __name__ == "__main__":
    main()
