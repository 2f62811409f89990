"""Which feature of a frame tells a word, if the frames are known: what `benchmarks.frames_grid` settled its own by.

A model of single frames is trained and tested on 8 frames of the true window: the ceiling of every selection. On fifth
0 of GRID's labels `adverb` and `preposition`, which `benchmarks.frames_grid` does not report.
``python -m benchmarks.frames_features [--data PATH] [--work DIR]``
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import torch

from benchmarks.frames_grid import CHOSEN, DATA, EPOCHS, WORK, features_of, load, split, window_frames, words_of
from tamis.search.frames.models import fit_on_frames

RESULT = Path(__file__).parent / "results" / "frames_features.json"
LABELS = ("adverb", "preposition")
KINDS = {  # whole picture, clip's mean taken away
    "whole face": (True, False),
    "whole face minus the clip's mean": (True, True),
    "liveliest piece": (False, False),
    "liveliest piece minus the clip's mean": (False, True),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds grid_s1")
    parser.add_argument("--work", type=Path, default=WORK, help="thumbnails are kept here")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    words, figures = words_of(args.data), {}
    for name, (whole, centred) in KINDS.items():
        clips = load(args.data, args.work, whole=whole)
        train, test = split(len(clips), 0)
        features, figures[name] = features_of(clips, train, centred=centred), {}
        for word in LABELS:
            labels, windows = words[word]
            frames = [window_frames(windows[i], CHOSEN[0], len(clips[i])) for i in range(len(clips))]
            model = fit_on_frames(
                [features[i] for i in train], labels[train], [frames[i] for i in train], 0, epochs=EPOCHS
            )
            right = [model(features[i][frames[i]]).mean(0).argmax() == labels[i] for i in test]
            figures[name][word] = float(np.mean(right))
        print(name, figures[name], flush=True)
    result = {
        "benchmark": "frames_features",
        "claim": "Accuracy with 8 frames of the true window, by feature of a frame",
        "seeds": [0],
        "data": f"grid_s1, fifth 0 ({len(test)} test clips)",
        "budget": {"epochs of frame models": EPOCHS},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "figures": figures,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
