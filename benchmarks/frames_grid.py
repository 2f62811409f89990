"""Search-Map-Search on GRID: a word is visible only in a short window that no method is shown.

850 clips, cross-validated: seed s trains on four fifths and tests on fifth s, so that five seeds test every clip once.
A frame's feature: the piece of the clip's grey thumbnails that changes most from frame to frame (the mouth, found
without any label), minus the clip's mean, through PCA-48 (fitted without the test clips), five frames of context. The
classifier is a small network on frames, logits averaged. Every selector that reads features reads those of the same 75
frames, and n frames go to the classifier; "all frames" is the mean over everything at the same cost of features. Piece,
epochs and the map's settings were chosen on fifth 0 of the words `adverb` and `preposition`, which are not reported.

"infer": one classifier for all, fitted on random frames as `search_frames` fits its own (two rounds, drawn and weighted
by time). "train and infer": a classifier fitted on the frames that the selector chose. Reported: accuracy, SMS minus
the selector with a 95 % interval (over the fifths, see `interval`; each has models, search and test clips of its own;
"mean of the labels" averages the three within each fifth), the share of chosen frames in the true window. "oracle" and
"true window" use what no method has; "time profile" takes the n moments that stage 1 chose most often in the training
clips; "SMS, top n" takes the n frames nearest to the map's prediction one by one, without the search of stage 3. The
map was searched with n = 8; n = 4 uses it too.

Each fifth is kept in ``--work`` when done, under the settings' fingerprint, so that an interrupted run goes on.
``python -m benchmarks.frames_grid [--quick] [--data PATH] [--work DIR] [--labels command color digit] [--seeds 5]``
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.curriculum_common import T_95
from tamis.core.rng import numpy_generator
from tamis.policy.base import fingerprint
from tamis.search.frames.models import fit_on_frames, out_of_fold_logits, time_weights, weigh
from tamis.search.frames.search import search_clip, search_frames
from tamis.search.frames.training import MapConfig
from tamis.transforms.frames.encoder import thumbnails
from tamis.transforms.frames.selectors import (
    ClipView,
    ConfidentFrames,
    FarthestFrames,
    PairwiseFrames,
    RandomFrames,
    SceneFrames,
    SegmentFrames,
    UniformFrames,
)
from tamis.transforms.frames.video import open_video

RESULT = Path(__file__).parent / "results" / "frames_grid.json"
DATA = Path(__file__).parents[2] / "shared" / "data"
WORK = Path(tempfile.gettempdir()) / "tamis_frames_grid"
WORDS = ("command", "color", "preposition", "letter", "digit", "adverb")
THUMBNAIL, SIZE, COMPONENTS, CONTEXT, FOLDS = (96, 120), (32, 48), 48, (-4, -2, 0, 2, 4), 5
CHOSEN, EVALUATIONS, EPOCHS, INNER_FOLDS = (8, 4), 800, 40, 4
MAP = MapConfig(width=128, epochs=20)
SETTINGS = fingerprint(THUMBNAIL, SIZE, COMPONENTS, CONTEXT, FOLDS, CHOSEN, EVALUATIONS, EPOCHS, INNER_FOLDS, repr(MAP))
KEPT = (
    "uniform",
    "confident (SCSampler-like)",
    "SMS",
    "true window",
)  # frames of these go to benchmarks/frames_transfer.py
NOT_TRAINED = ("all frames", "oracle (stage 1 with the test label)")
Chosen = dict[int, np.ndarray]  # frames by clip


def words_of(data: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each word its classes [V] and windows [V, 2]."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "grid_s1" / "clips.parquet", columns=[*WORDS, "word_start", "word_end"]).to_pydict()
    words = {}
    for place, word in enumerate(WORDS):
        classes = np.unique(rows[word], return_inverse=True)[1].astype(np.int64)
        windows = [(a[place], b[place]) for a, b in zip(rows["word_start"], rows["word_end"], strict=True)]
        words[word] = (classes, np.array(windows))
    return words


def load(data: Path, work: Path, *, whole: bool = False) -> list[np.ndarray]:
    """The `liveliest` piece of each clip, or small ``whole`` pictures: float32 [m, h w]; decoded once, then kept."""
    import pyarrow.parquet as pq

    size = SIZE if whole else THUMBNAIL
    kept = work / f"pieces-{size}-{SIZE}.npz"
    if kept.exists():
        with np.load(kept) as file:
            return [file[name].astype(np.float32) / 255 for name in file.files]
    clips = []
    for content in pq.read_table(data / "grid_s1" / "clips.parquet", columns=["video"]).to_pydict()["video"]:
        video = open_video(content)
        grey = thumbnails(video.frames(np.arange(video.num_frames), size), size).numpy()
        piece = liveliest(grey.reshape(-1, *size)).reshape(len(grey), -1)
        clips.append((255 * piece).round().astype(np.uint8))
        video.close()
    work.mkdir(parents=True, exist_ok=True)
    np.savez(kept, *clips)
    return [clip.astype(np.float32) / 255 for clip in clips]


def liveliest(frames: np.ndarray) -> np.ndarray:
    """[m, H, W] -> [m, h, w], the piece of `SIZE` with the largest mean change from one frame to the next."""
    change = np.abs(np.diff(frames, axis=0)).mean(0)
    sums = np.pad(change.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = SIZE
    found = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    top, left = np.unravel_index(found.argmax(), found.shape)
    piece: np.ndarray = frames[:, top : top + h, left : left + w]
    return piece


def split(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips to train on and clips to test on."""
    order = numpy_generator(1).permutation(count)
    return np.delete(order, np.s_[seed % FOLDS :: FOLDS]), order[seed % FOLDS :: FOLDS]


def features_of(clips: list[np.ndarray], train: np.ndarray, *, centred: bool = True) -> list[np.ndarray]:
    """Whitened principal components with context, fitted on training clips; ``centred``: of clips minus their mean."""
    clips = [clip - clip.mean(0) for clip in clips] if centred else clips
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

    def __init__(self, features: list[np.ndarray], labels: np.ndarray, windows: np.ndarray, seed: int) -> None:
        self.train, self.test = split(len(features), seed)
        self.features, self.labels, self.windows, self.seed = features, labels, windows, seed
        inside, truth = [features[i] for i in self.train], labels[self.train]
        times: np.ndarray | None = None
        for number in range(2):  # as `search_frames` does it
            drawn = times

            def fit(given: list[np.ndarray], truth: np.ndarray, seed: int, times: np.ndarray | None = drawn) -> Any:
                return fit_on_frames(given, truth, None, seed, times=times, epochs=EPOCHS)

            found = out_of_fold_logits(inside, truth, fit=fit, folds=INNER_FOLDS, seed=seed + 10 * number)
            times = time_weights(found, truth)
        model = fit(inside, truth, seed)
        self.found = [weigh(logits, times) for logits in found]
        self.logits = {int(i): weigh(model(features[i]), times) for i in self.test}
        # what the out-of-fold models say of the training clips, as the classifier's word there
        self.logits |= {int(i): logits for i, logits in zip(self.train, self.found, strict=True)}
        self.policy = search_frames(
            inside, truth, CHOSEN[0], logits=self.found, budget=EVALUATIONS, restarts=1, map_config=MAP, seed=seed
        )

    def choose(self, n: int) -> dict[str, Chosen]:
        """Frames by method; of training clips too for the methods that are trained on."""
        every, test = [int(i) for i in np.concatenate([self.train, self.test])], [int(i) for i in self.test]
        views = {i: ClipView(len(self.features[i]), self.features[i], key=(self.seed, i)) for i in every}
        scored = {i: ClipView(len(self.features[i]), self.logits[i]) for i in every}
        identity, searched = nn.Identity(), self.policy.selector()
        selectors = {
            "SMS": (searched, views),
            "uniform": (UniformFrames(), views),
            "TSN segments": (SegmentFrames(), views),
            "random": (RandomFrames(), views),
            "confident (SCSampler-like)": (ConfidentFrames(identity), scored),
            "pairs (SMART-like)": (PairwiseFrames(identity), scored),
            "farthest": (FarthestFrames(), views),
            "scene change": (SceneFrames(), views),
        }
        chosen = {name: {i: how.select(given[i], n) for i in every} for name, (how, given) in selectors.items()}
        chosen["SMS, top n"] = {i: _largest(searched.scores(views[i]), n) for i in every}
        smooth = np.convolve(self.policy.profile.numpy(), np.ones(7) / 7, "same")
        chosen["time profile of stage 1"] = {i: _largest(_stretched(smooth, views[i].size), n) for i in every}
        chosen["all frames"] = {i: np.arange(views[i].size) for i in test}
        chosen["oracle (stage 1 with the test label)"] = {
            i: search_clip(self.logits[i], int(self.labels[i]), n, budget=EVALUATIONS)[0] for i in test
        }
        chosen["true window"] = {i: window_frames(self.windows[i], n, views[i].size) for i in every}
        return chosen

    def infer(self, frames: Chosen) -> list[int]:
        """Right (1) or wrong (0) for each test clip."""
        return [int(self.logits[i][frames[i]].mean(0).argmax() == self.labels[i]) for i in map(int, self.test)]

    def train_and_infer(self, frames: Chosen) -> list[int]:
        """The same, by a model fitted on the chosen frames of the training clips."""
        inside, given = [self.features[i] for i in self.train], [frames[int(i)] for i in self.train]
        model = fit_on_frames(inside, self.labels[self.train], given, self.seed + 100, epochs=EPOCHS)
        tested = [int(i) for i in self.test]
        return [int(model(self.features[i][frames[i]]).mean(0).argmax() == self.labels[i]) for i in tested]

    def share(self, frames: Chosen) -> list[float]:
        """Share of the chosen frames inside the true window, for each test clip."""
        where = [(frames[i], *self.windows[i]) for i in map(int, self.test)]
        return [float(((chosen >= first) & (chosen < end)).mean()) for chosen, first, end in where]

    def report(self) -> dict[str, Any]:
        """What is kept of a fold, by n."""
        found: dict[str, Any] = {"cosine": self.policy.search.score if self.policy.search else None}
        for n in CHOSEN:
            chosen = self.choose(n)
            found[str(n)] = {
                "share": {name: self.share(frames) for name, frames in chosen.items()},
                "infer": {name: self.infer(frames) for name, frames in chosen.items()},
                "train and infer": {
                    name: self.train_and_infer(frames) for name, frames in chosen.items() if name not in NOT_TRAINED
                },
                "frames": {name: {str(i): f.tolist() for i, f in chosen[name].items()} for name in KEPT},
            }
        return found


def window_frames(window: np.ndarray, n: int, m: int) -> np.ndarray:
    """``n`` of m frames, evenly spread over the true window."""
    return np.linspace(*(window - (0, 1)), n).round().clip(0, m - 1).astype(np.int64)


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """The n places of the largest values, sorted."""
    return np.sort(np.argsort(-values, kind="stable")[:n])


def _stretched(profile: np.ndarray, m: int) -> np.ndarray:
    """The profile at the moments of m frames."""
    return profile[((np.arange(m) + 0.5) / m * len(profile)).astype(np.int64)]


def interval(differences: np.ndarray) -> list[float] | None:
    """95 % interval of the mean over the fifths, None of a single one.

    Student's t with the correction of C. Nadeau, Y. Bengio, "Inference for the generalization error", 2003, for
    training sets that overlap: the variance of the mean is (1 / k + test clips / training clips) times the sample's.
    """
    k = len(differences)
    if k < 2:
        return None
    half = T_95[k] * differences.std(ddof=1) * (1 / k + 1 / (FOLDS - 1)) ** 0.5
    return [float(differences.mean() - half), float(differences.mean() + half)]


def table(right: dict[str, list[np.ndarray]], share: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """A row for each method from its hits and shares, one array a fifth."""
    rows = {}
    for name, hits in right.items():
        rows[name] = {
            "accuracy": float(np.concatenate(hits).mean()),
            "share in window": float(np.concatenate(share[name]).mean()),
        }
        if name != "SMS":
            gaps = np.array([a.mean() - b.mean() for a, b in zip(right["SMS"], hits, strict=True)])
            rows[name] |= {"SMS minus it": float(gaps.mean()), "95 %": interval(gaps)}
    return rows


def fifth(work: Path, word: str, seed: int) -> Path:
    """The file of a fifth that is done."""
    return work / f"{word}-{seed}-{SETTINGS[-8:]}.json"


def together(words: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The fifths of all words as one: each method's hits and shares in a row, the map's cosine averaged."""
    found = []
    for parts in zip(*words, strict=True):
        fold: dict[str, Any] = {"cosine": float(np.mean([part["cosine"] for part in parts]))}
        for n in map(str, CHOSEN):
            fold[n] = {
                mode: {name: np.concatenate([part[n][mode][name] for part in parts]) for name in parts[0][n][mode]}
                for mode in ("share", "infer", "train and infer")
            }
        found.append(fold)
    return found


def joined(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """The tables of a word from its folds."""
    figures: dict[str, Any] = {
        "fifths tested": len(folds),
        "map's cosine": float(np.mean([f["cosine"] for f in folds])),
    }
    for n in map(str, CHOSEN):
        parts = {
            mode: {name: [np.array(f[n][mode][name], float) for f in folds] for name in folds[0][n][mode]}
            for mode in ("share", "infer", "train and infer")
        }
        for mode in ("infer", "train and infer"):
            figures[f"n = {n}, {mode}"] = table(parts[mode], parts["share"])
        better = {}  # each method with the classifier that serves it better
        for name in parts["infer"]:
            both = [parts[mode][name] for mode in ("infer", "train and infer") if name in parts[mode]]
            better[name] = max(both, key=lambda hits: float(np.concatenate(hits).mean()))
        figures[f"n = {n}, the better of both"] = table(better, parts["share"])
        if "frames" in folds[0][n]:
            clips = [frames for fold in folds for frames in fold[n]["frames"]["SMS"].values()]
            repeats = np.array([len(frames) - len(set(frames)) for frames in clips])
            figures[f"n = {n}, SMS's repeats"] = {
                "frames that repeat another": float(repeats.mean() / int(n)),
                "clips with a repeat": float((repeats > 0).mean()),
            }
    return figures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one fifth of one word")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds grid_s1")
    parser.add_argument("--work", type=Path, default=WORK, help="thumbnails and finished fifths are kept here")
    parser.add_argument("--labels", nargs="+", default=["command", "color", "digit"], choices=WORDS)
    parser.add_argument("--seeds", type=int, default=FOLDS)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not (args.data / "grid_s1" / "clips.parquet").exists():
        raise SystemExit(f"no {args.data}/grid_s1/clips.parquet: pass --data")
    if args.quick:
        args.labels, args.seeds = args.labels[:1], 1
    words, clips = words_of(args.data), load(args.data, args.work)
    result: dict[str, Any] = {
        "benchmark": "frames_grid",
        "claim": "SMS against every selector on words visible in a short window only; 850 real clips, one speaker",
        "seeds": list(range(args.seeds)),
        "data": "grid_s1, 850 clips, 5-fold (seed s tests fifth s); frames: the liveliest 32x48 of 96x120",
        "budget": {"evaluations a clip": EVALUATIONS, "map epochs": MAP.epochs, "epochs of frame models": EPOCHS},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    for seed in range(args.seeds):
        features: list[np.ndarray] = []
        for word in args.labels:
            kept = fifth(args.work, word, seed)
            if kept.exists():
                continue
            start = time.perf_counter()
            features = features or features_of(clips, split(len(clips), seed)[0])
            kept.with_suffix(".tmp").write_text(json.dumps(Fold(features, *words[word], seed).report()))
            kept.with_suffix(".tmp").replace(kept)
            print(f"{word}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    folds = [
        [json.loads(fifth(args.work, word, seed).read_text()) for seed in range(args.seeds)] for word in args.labels
    ]
    result["figures"] = {word: joined(parts) for word, parts in zip(args.labels, folds, strict=True)}
    result["figures"]["mean of the labels"] = joined(together(folds))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
