"""Which encoder tells most on GRID: accuracy of `search_frames`' frame models on 8 frames drawn at random.

850 clips of one speaker, five folds, each clip asked about by a model that was not fitted on it; the word `command`
(four classes). Random frames bound what selecting can reach from below, so a better row is a better start for each
selector. One seed. ``python -m benchmarks.frames_encoders [--data PATH] [--clips 850] [--word command]``
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import tamis
from tamis.search import compare_encoders
from tamis.transforms import MotionEncoder, PixelEncoder, open_video

RESULT = Path(__file__).parent / "results" / "frames_encoders.json"
DATA = Path(__file__).parents[2] / "shared" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--clips", type=int, default=850)
    parser.add_argument("--word", default="command")
    args = parser.parse_args()
    import pyarrow.parquet as pq

    torch.set_num_threads(1)
    table = pq.read_table(args.data / "grid_s1" / "clips.parquet", columns=["video", args.word]).slice(0, args.clips)
    videos = table["video"].to_pylist()
    labels = np.unique(table[args.word].to_pylist(), return_inverse=True)[1]

    def fitted(kind: type[PixelEncoder], size: tuple[int, int], **options: bool) -> PixelEncoder:
        clips = []
        for video in videos[:100]:
            clip = open_video(video)
            clips.append(clip.frames(np.arange(clip.num_frames), size))
            clip.close()
        return kind.fit(clips, size=size, **options)

    encoders = {
        "pixels": lambda: "pixels",
        "pixels, centred": lambda: fitted(PixelEncoder, (32, 48), centred=True),
        "motion": lambda: "motion",
        "motion, not centred": lambda: fitted(MotionEncoder, (96, 120), centred=False),
    }
    figures: dict[str, dict[str, float]] = {}
    for name, make in encoders.items():
        started = time.time()
        right = compare_encoders(videos, labels, {name: make()})[name]
        figures[name] = {"accuracy": right, "seconds": round(time.time() - started, 1)}
        print(name, figures[name], flush=True)
        result = {
            "benchmark": "frames_encoders",
            "claim": "accuracy of frame models on 8 random frames, by the encoder, which is fitted without labels",
            "data": f"grid_s1, {len(videos)} clips, word {args.word}, 5 folds",
            "seeds": [0],
            "versions": {"tamis": tamis.__version__, "torch": torch.__version__},
            "figures": {args.word: figures},
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
