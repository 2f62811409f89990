"""A plain PyTorch loop: the selectors that need no search beside the searched policy, and a broken file on the way."""

from __future__ import annotations

import argparse
import warnings

import torch
from torch.utils.data import DataLoader
from video_clips import make_clips, share_right, small_processor, small_videomae

from tamis.search import MapConfig, search_frames
from tamis.transforms import FarthestFrames, FrameSelectionCollator, SegmentFrames, UniformFrames


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", default="runs/frames_plain_loop")
    args = parser.parse_args(argv)

    train, test = make_clips(args.clips), make_clips(max(6, args.clips // 4), seed=1)
    policy = search_frames(
        [row["video"] for row in train],
        [row["label"] for row in train],
        num_frames=4,
        folds=3,
        clip_length=8,
        map_config=MapConfig(width=32, epochs=10),
        out=args.out,
    )
    train.append({"video": b"cut off on the way", "label": 0})  # skipped, its batch stays whole
    selectors = {"uniform": UniformFrames(), "segments": SegmentFrames(), "farthest": FarthestFrames(), "SMS": policy}
    for name, selector in selectors.items():
        collate = FrameSelectionCollator(selector, num_frames=4, processor=small_processor(), on_error="skip")
        model = small_videomae(num_frames=4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for epoch in range(args.epochs):
            collate.set_epoch(epoch)  # `SegmentFrames` draws anew
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # one line for each skipped video
                for batch in DataLoader(train, batch_size=8, shuffle=True, collate_fn=collate):
                    optimizer.zero_grad()
                    model(**batch).loss.backward()
                    optimizer.step()
        print(f"{name}: test accuracy {share_right(model, collate(test)):.2f}, {collate.skipped} videos skipped")


if __name__ == "__main__":
    main()
