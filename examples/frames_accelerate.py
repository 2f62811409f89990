"""Search and training on two processes: ``torchrun --nproc_per_node 2 examples/frames_accelerate.py``."""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from video_clips import make_clips, share_right, small_processor, small_videomae

from tamis.search import MapConfig, search_frames
from tamis.transforms import FrameSelectionCollator


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", default="runs/frames_accelerate")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU (gloo)")
    args = parser.parse_args(argv)

    accelerator = Accelerator(cpu=args.cpu)
    train, test = make_clips(args.clips), make_clips(max(6, args.clips // 4), seed=1)
    # on all processes: features, out-of-fold models and clips are dealt out, and each gets the same policy
    policy = search_frames(
        [row["video"] for row in train],
        [row["label"] for row in train],
        num_frames=4,
        folds=3,
        clip_length=8,
        map_config=MapConfig(width=32, epochs=10),
        out=args.out,
    )
    collate = FrameSelectionCollator(policy, num_frames=4, processor=small_processor(), distinct=True)
    loader = DataLoader(train, batch_size=4, shuffle=True, collate_fn=collate)
    model = small_videomae(num_frames=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(args.epochs):
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.4f}")
    right = share_right(accelerator.unwrap_model(model), collate(test))
    accelerator.print(f"{accelerator.num_processes} processes; test accuracy {right:.2f} on 4 chosen frames of 40")
    accelerator.end_training()


if __name__ == "__main__":
    main()
