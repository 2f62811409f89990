"""Search-Map-Search on planted clips: which frames tell is known, and decoys look just as strong.

Clips of 60 frames, features of 32 numbers. Five frames somewhere show the class and a marker; three decoys show another
class, as clearly, under another marker; the rest is noise. A classifier on frames, logits averaged, is trained on
random frames; n = 4 frames of each test clip are chosen. Reported: accuracy, the share of informative frames among the
chosen, and how much of the gap between uniform frames and the oracle (stage 1 with the test label) a selector closes.
``python -m benchmarks.frames_planted [--quick] [--seeds 5]``
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tamis.core.rng import numpy_generator
from tamis.search.frames.models import fit_frame_model
from tamis.search.frames.search import search_clip, search_frames
from tamis.search.frames.training import MapConfig
from tamis.transforms.frames.selectors import (
    ClipView,
    ConfidentFrames,
    FarthestFrames,
    PairwiseFrames,
    RandomFrames,
    SceneFrames,
    UniformFrames,
)

RESULT = Path(__file__).parent / "results" / "frames_planted.json"
FRAMES, FEATURE, CLASSES, CHOSEN, SHOWN, DECOYS = 60, 32, 5, 4, 5, 3


def clips(count: int, seed: int, shared: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Features of each clip, labels, and bool [V, m]: where the class is shown."""
    rng = numpy_generator(seed, 31)
    labels = rng.integers(CLASSES, size=count)
    features, shown = [], np.zeros((count, FRAMES), dtype=bool)
    for number, label in enumerate(labels):
        clip = rng.standard_normal((FRAMES, FEATURE))
        places = rng.permutation(FRAMES)
        shown[number, places[:SHOWN]] = True
        clip[places[:SHOWN]] += 2.5 * shared[label] + 2.0 * shared[-2]
        other = (label + rng.integers(1, CLASSES)) % CLASSES
        clip[places[SHOWN : SHOWN + DECOYS]] += 2.5 * shared[other] + 2.0 * shared[-1]
        features.append(clip)
    return features, labels.astype(np.int64), shown


def one_seed(seed: int, train_count: int, test_count: int, epochs: int) -> dict[str, tuple[float, float]]:
    """(accuracy, share of informative frames) of each selector."""
    shared = numpy_generator(seed, 30).standard_normal((CLASSES + 2, FEATURE))
    shared /= np.linalg.norm(shared, axis=1, keepdims=True) / 2
    train, labels, _ = clips(train_count, 2 * seed, shared)
    test, truth, shown = clips(test_count, 2 * seed + 1, shared)
    config = MapConfig(width=64, epochs=epochs)
    policy = search_frames(
        train, labels, CHOSEN, clip_length=10, budget=1500, time_waves=0, time_bins=0, map_config=config, seed=seed
    )
    model = fit_frame_model(train, labels, seed + 50)
    logits = [np.asarray(model(clip), dtype=np.float64) for clip in test]
    views = [ClipView(FRAMES, clip, key=(seed, i)) for i, clip in enumerate(test)]
    scored = [ClipView(FRAMES, rows) for rows in logits]
    chosen = {
        "uniform": [UniformFrames().select(view, CHOSEN) for view in views],
        "random": [RandomFrames().select(view, CHOSEN) for view in views],
        "farthest": [FarthestFrames().select(view, CHOSEN) for view in views],
        "scene change": [SceneFrames().select(view, CHOSEN) for view in views],
        "confident (SCSampler-like)": [ConfidentFrames(nn.Identity()).select(view, CHOSEN) for view in scored],
        "pairs (SMART-like)": [PairwiseFrames(nn.Identity()).select(view, CHOSEN) for view in scored],
        "SMS": [policy.selector().select(view, CHOSEN) for view in views],
        "oracle (stage 1 with the test label)": [
            search_clip(rows, int(label), CHOSEN, clip_length=10, budget=1500)[0]
            for rows, label in zip(logits, truth, strict=True)
        ],
        "all frames": [np.arange(FRAMES)] * len(test),
    }
    return {
        name: (
            float(np.mean([rows[f].mean(0).argmax() == y for rows, f, y in zip(logits, frames, truth, strict=True)])),
            float(np.mean([mask[f].mean() for mask, f in zip(shown, frames, strict=True)])),
        )
        for name, frames in chosen.items()
    }


def interval(values: np.ndarray) -> list[float]:
    """95 % t interval of the mean over seeds."""
    if len(values) < 2:
        return [float(values.mean())] * 2
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}.get(len(values), 2.0)
    half = t * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean() - half), float(values.mean() + half)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 100 clips")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds, train, test, epochs = (1, 100, 60, 4) if args.quick else (args.seeds, 400, 200, 10)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, tuple[float, float]]] = []
    for seed in range(seeds):
        runs.append(one_seed(seed, train, test, epochs))
        accuracy = {name: np.array([run[name][0] for run in runs]) for name in runs[0]}
        gap = accuracy["oracle (stage 1 with the test label)"] - accuracy["uniform"]
        figures: dict[str, Any] = {
            name: {
                "accuracy": float(values.mean()),
                "minus uniform": float((values - accuracy["uniform"]).mean()),
                "95 %": interval(values - accuracy["uniform"]),
                "share of the gap to the oracle": float(((values - accuracy["uniform"]) / gap).mean()),
                "informative frames": float(np.mean([run[name][1] for run in runs])),
            }
            for name, values in accuracy.items()
        }
        result = {
            "benchmark": "frames_planted",
            "seeds": list(range(len(runs))),
            "data": f"{train} + {test} clips, m = {FRAMES}, n = {CHOSEN}, {SHOWN} informative frames, {DECOYS} decoys",
            "budget": {"stage 1 evaluations a clip": 1500, "map epochs": epochs},
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "figures": figures,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(seed, {name: np.round(run, 2).tolist() for name, run in runs[-1].items()}, flush=True)


if __name__ == "__main__":
    main()
