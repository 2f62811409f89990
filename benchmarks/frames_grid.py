"""Search-Map-Search on GRID: a word is visible only in a short window that no method is shown.

850 clips, cross-validated: seed s trains on four fifths and tests on fifth s, so that five seeds test every clip once.
Frames are grey thumbnails through PCA-48 (fitted without the test clips), five frames of context; the classifier is a
small network on frames, logits averaged. Every selector sees the same features of the same 75 frames, and n frames go
to the classifier. "infer": one classifier, trained on random frames, its logits weighted by time as the search found
out (the same for all selectors). "train and infer": a classifier trained on the frames that the selector chose.
Reported: accuracy, the difference to uniform frames on the same clips with a 95 % interval (bootstrap over clips), and
the share of chosen frames inside the true window. "oracle" and "true window" use what no method has.
``python -m benchmarks.frames_grid [--quick] [--data PATH] [--labels command color digit] [--frames 8 4]``
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tamis._core.rng import numpy_generator
from tamis.search.frames import out_of_fold_logits, search_clip, search_frames
from tamis.search.frames_training import MapConfig, fit_on_frames, time_weights, weigh
from tamis.transforms.decode import open_video
from tamis.transforms.frames_encoder import thumbnails
from tamis.transforms.selectors import (
    ClipView,
    ConfidentFrames,
    FarthestFrames,
    PairwiseFrames,
    RandomFrames,
    SceneFrames,
    SegmentFrames,
    UniformFrames,
)

RESULT = Path(__file__).parent / "results" / "frames_grid.json"
DATA = Path(__file__).parents[2] / "shared" / "data"
WORDS = ("command", "color", "preposition", "letter", "digit", "adverb")
SIZE, COMPONENTS, CONTEXT, FOLDS, EPOCHS = (32, 48), 48, (-4, -2, 0, 2, 4), 5, 20
TRAINED = ("uniform", "confident (SCSampler-like)", "time profile of stage 1", "SMS", "true window")


def load(data: Path) -> tuple[list[np.ndarray], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Grey thumbnails [m, h w] of each clip; for each word its classes and windows [V, 2]."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "grid_s1" / "clips.parquet").to_pydict()
    clips = []
    for content in rows["video"]:
        video = open_video(content)
        clips.append(thumbnails(video.frames(np.arange(video.num_frames), SIZE), SIZE).numpy())
        video.close()
    words = {}
    for place, word in enumerate(WORDS):
        classes = np.unique(rows[word], return_inverse=True)[1].astype(np.int64)
        windows = [(a[place], b[place]) for a, b in zip(rows["word_start"], rows["word_end"], strict=True)]
        words[word] = (classes, np.array(windows))
    return clips, words


def features_of(clips: list[np.ndarray], train: np.ndarray) -> list[np.ndarray]:
    """Whitened principal components with context, fitted on the training clips."""
    stacked = np.concatenate([clips[i][::5] for i in train])
    mean = stacked.mean(0)
    values, vectors = np.linalg.eigh(np.cov((stacked - mean).T))
    components = vectors[:, ::-1][:, :COMPONENTS] / np.sqrt(values[::-1][:COMPONENTS])
    out = []
    for clip in clips:
        plain, places = (clip - mean) @ components, np.arange(len(clip))
        out.append(np.concatenate([plain[np.clip(places + by, 0, len(clip) - 1)] for by in CONTEXT], axis=1))
    return out


class Fold:
    """One seed's split, its classifier and what all selectors share."""

    def __init__(self, clips: list[np.ndarray], labels: np.ndarray, windows: np.ndarray, seed: int) -> None:
        order = numpy_generator(1).permutation(len(clips))
        self.test, self.train = order[seed % FOLDS :: FOLDS], np.delete(order, np.s_[seed % FOLDS :: FOLDS])
        self.labels, self.windows, self.seed = labels, windows, seed
        self.features = features_of(clips, self.train)
        inside = [self.features[i] for i in self.train]
        self.found = out_of_fold_logits(inside, labels[self.train], fit=self.fit, folds=5, seed=seed)
        weights = time_weights(self.found, labels[self.train])
        self.found = [weigh(logits, weights) for logits in self.found]
        model = self.fit(inside, labels[self.train], seed)
        self.logits = {int(i): weigh(model(self.features[i]), weights) for i in self.test}
        # what the out-of-fold models say of the training clips, as the classifier's word there
        self.logits |= {int(i): logits for i, logits in zip(self.train, self.found, strict=True)}

    @staticmethod
    def fit(features: list[np.ndarray], labels: np.ndarray, seed: int) -> Any:
        return fit_on_frames(features, labels, None, seed, epochs=EPOCHS)

    def choose(self, n: int, map_epochs: int) -> dict[str, dict[int, np.ndarray]]:
        """Frames by method and clip; training clips too for the methods that are trained on."""
        every = [int(i) for i in np.concatenate([self.train, self.test])]
        test = [int(i) for i in self.test]
        views = {i: ClipView(len(self.features[i]), self.features[i], key=(self.seed, i)) for i in every}
        scored = {i: ClipView(len(self.features[i]), self.logits[i]) for i in every}
        identity = nn.Identity()
        by_feature = {"uniform": UniformFrames(), "TSN segments": SegmentFrames(), "random": RandomFrames()}
        by_feature |= {"farthest": FarthestFrames(), "scene change": SceneFrames()}
        chosen = {name: {i: selector.select(views[i], n) for i in every} for name, selector in by_feature.items()}
        by_logits = {
            "confident (SCSampler-like)": ConfidentFrames(identity),
            "pairs (SMART-like)": PairwiseFrames(identity),
        }
        chosen |= {name: {i: selector.select(scored[i], n) for i in every} for name, selector in by_logits.items()}
        policy = search_frames(
            [self.features[i] for i in self.train],
            self.labels[self.train],
            n,
            logits=self.found,
            budget=1500,
            map_config=MapConfig(width=64, epochs=map_epochs),
            seed=self.seed,
        )
        self.cosine = policy.search.score if policy.search else None
        selector = policy.selector()
        chosen["SMS"] = {i: selector.select(views[i], n) for i in every}
        smooth = np.convolve(policy.profile.numpy(), np.ones(7) / 7, "same")
        chosen["time profile of stage 1"] = {i: _peak(smooth, len(self.features[i]), n) for i in every}
        chosen["all frames"] = {i: np.arange(len(self.features[i])) for i in test}
        chosen["oracle (stage 1 with the test label)"] = {
            i: search_clip(self.logits[i], int(self.labels[i]), n, budget=1500)[0] for i in test
        }
        chosen["true window"] = {
            i: np.linspace(*(self.windows[i] - (0, 1)), n).round().clip(0, len(self.features[i]) - 1).astype(np.int64)
            for i in every
        }
        return chosen

    def infer(self, frames: dict[int, np.ndarray]) -> np.ndarray:
        """Right or wrong for each test clip."""
        return np.array([self.logits[i][frames[i]].mean(0).argmax() == self.labels[i] for i in map(int, self.test)])

    def train_and_infer(self, frames: dict[int, np.ndarray]) -> np.ndarray:
        model = fit_on_frames(
            [self.features[i] for i in self.train],
            self.labels[self.train],
            [frames[int(i)] for i in self.train],
            self.seed + 100,
            epochs=EPOCHS,
        )
        return np.array(
            [model(self.features[i])[frames[i]].mean(0).argmax() == self.labels[i] for i in map(int, self.test)]
        )

    def share(self, frames: dict[int, np.ndarray]) -> np.ndarray:
        return np.array(
            [((frames[i] >= self.windows[i][0]) & (frames[i] < self.windows[i][1])).mean() for i in map(int, self.test)]
        )


def _peak(profile: np.ndarray, m: int, n: int) -> np.ndarray:
    """The n frames of the highest profile."""
    at = profile[((np.arange(m) + 0.5) / m * len(profile)).astype(np.int64)]
    return np.sort(np.argsort(-at, kind="stable")[:n])


def interval(difference: np.ndarray) -> list[float]:
    """95 % bootstrap interval of the mean over clips."""
    rng = numpy_generator(2)
    means = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(2000)]
    return [float(np.quantile(means, q)) for q in (0.025, 0.975)]


def table(right: dict[str, np.ndarray], share: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        name: {
            "accuracy": float(hits.mean()),
            "minus uniform": float((hits.astype(float) - right["uniform"]).mean()),
            "95 %": interval(hits.astype(float) - right["uniform"]),
            "SMS minus it": float((right["SMS"].astype(float) - hits).mean()),
            "SMS minus it, 95 %": interval(right["SMS"].astype(float) - hits),
            "share in window": float(share[name].mean()),
        }
        for name, hits in right.items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, one word, n = 8, a short map")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds grid_s1")
    parser.add_argument("--labels", nargs="+", default=["command", "color", "digit"], choices=WORDS)
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not (args.data / "grid_s1" / "clips.parquet").exists():
        raise SystemExit(f"no {args.data}/grid_s1/clips.parquet: pass --data")
    if args.quick:
        args.labels, args.frames, args.seeds = args.labels[:1], args.frames[:1], 1
    clips, words = load(args.data)
    result: dict[str, Any] = {
        "benchmark": "frames_grid",
        "seeds": [],
        "data": "grid_s1, 850 clips, 5-fold (seed s tests fifth s)",
        "budget": {"stage 1 evaluations a clip": 1500, "stage 3 evaluations a clip": 1500, "map epochs": 6},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "figures": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for word in args.labels:
        kept: dict[tuple[int, str], dict[str, list[np.ndarray]]] = {}
        for seed in range(args.seeds):
            start = time.perf_counter()
            fold = Fold(clips, *words[word], seed)
            for n in args.frames:
                chosen = fold.choose(n, 2 if args.quick else 6)
                for name, frames in chosen.items():
                    kept.setdefault((n, "share"), {}).setdefault(name, []).append(fold.share(frames))
                    kept.setdefault((n, "infer"), {}).setdefault(name, []).append(fold.infer(frames))
                for name in TRAINED:
                    hits = fold.train_and_infer(chosen[name])
                    kept.setdefault((n, "train and infer"), {}).setdefault(name, []).append(hits)
                joined = {
                    key: {name: np.concatenate(parts) for name, parts in values.items()}
                    for key, values in kept.items()
                    if key[0] == n
                }
                result["figures"].setdefault(word, {})[f"n = {n}"] = {
                    "seeds done": seed + 1,
                    "cosine of map on held-out clips": fold.cosine,
                    **{mode: table(joined[n, mode], joined[n, "share"]) for mode in ("infer", "train and infer")},
                }
                result["seeds"] = list(range(max(len(result["seeds"]), seed + 1)))
                args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{word}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        for n in args.frames:
            for mode in ("infer", "train and infer"):
                for name, row in result["figures"][word][f"n = {n}"][mode].items():
                    print(word, n, mode, name, {k: np.round(v, 3) for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
