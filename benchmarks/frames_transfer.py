"""Frames chosen with a model of single frames, given to a spatio-temporal model: a small TimeSformer from a config.

After table 5.5 of M. Zhao's thesis, which trains and tests video models on frames that Search-Map-Search chose with a
mean-pooling model. Here GRID clips, the word "command" (4 classes), the splits and frames of `benchmarks.frames_grid`
(run it first: it keeps the frames of each fifth in ``--work``). Seed s trains on four fifths and tests on fifth s. The
model sees 8 frames, grey, the middle of the mouth's piece at 32 x 32 minus the clip's mean, in patches of 8. "true
window" is given frames of the hidden window, the ceiling. Intervals: see `frames_grid.interval`.
``python -m benchmarks.frames_transfer [--quick] [--data PATH] [--work DIR] [--seeds 5]``
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
import transformers
from torch import nn

from benchmarks.frames_grid import DATA, KEPT, SIZE, WORK, fifth, interval, load, split, words_of
from tamis.core.rng import torch_generator

RESULT = Path(__file__).parent / "results" / "frames_transfer.json"
WORD, FRAMES, SIDE, WIDTH, LAYERS, PATCH, BATCH = "command", 8, 32, 64, 2, 8, 16


def pixels_of(clips: list[np.ndarray], frames: dict[str, list[int]]) -> torch.Tensor:
    """Float32 [V, T, 1, SIDE, SIDE], standardised: the chosen frames of every clip."""
    left, clips = (SIZE[1] - SIDE) // 2, [clip - clip.mean(0) for clip in clips]
    chosen = np.stack([clips[i].reshape(-1, *SIZE)[frames[str(i)], :, left : left + SIDE] for i in range(len(clips))])
    return torch.from_numpy((chosen - chosen.mean()) / chosen.std())[:, :, None]


def right(pixels: torch.Tensor, labels: torch.Tensor, seed: int, epochs: int) -> np.ndarray:
    """Train on four fifths; right (1) or wrong (0) for each clip of the last."""
    train, test = (torch.from_numpy(part) for part in split(len(labels), seed))
    config = transformers.TimesformerConfig(
        image_size=SIDE,
        patch_size=PATCH,
        num_channels=1,
        num_frames=FRAMES,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        num_labels=int(labels.max()) + 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = transformers.TimesformerForVideoClassification(config)
        steps = epochs * -(-len(train) // BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
        model.train()
        for epoch in range(epochs):
            order = train[torch.randperm(len(train), generator=torch_generator(seed, epoch))]
            for batch in order.split(BATCH):
                shift = torch.randint(-2, 3, (2,)).tolist()
                moved = torch.roll(pixels[batch], shift, (3, 4))
                loss = nn.functional.cross_entropy(model(pixel_values=moved).logits, labels[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    model.eval()
    with torch.inference_mode():
        guessed = model(pixel_values=pixels[test]).logits.argmax(-1)
    return (guessed == labels[test]).numpy().astype(float)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one fifth, 2 epochs")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds grid_s1")
    parser.add_argument("--work", type=Path, default=WORK, help="where benchmarks.frames_grid left its frames")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds, epochs = (1, 2) if args.quick else (args.seeds, args.epochs)
    missing = [s for s in range(seeds) if not fifth(args.work, WORD, s).exists()]
    if missing:
        raise SystemExit(f"no frames of fifth {missing} in {args.work}: run benchmarks.frames_grid --labels {WORD}")
    labels, clips = torch.from_numpy(words_of(args.data)[WORD][0]), load(args.data, args.work)
    hits: dict[str, list[np.ndarray]] = {name: [] for name in KEPT}
    for seed in range(seeds):
        frames = json.loads(fifth(args.work, WORD, seed).read_text())[str(FRAMES)]["frames"]
        for name in KEPT:
            start = time.perf_counter()
            hits[name].append(right(pixels_of(clips, frames[name]), labels, seed, epochs))
            print(f"seed {seed}, {name}: {hits[name][-1].mean():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        rows: dict[str, Any] = {}
        for name, parts in hits.items():
            rows[name] = {"accuracy": float(np.concatenate(parts).mean())}
            if name != "SMS":
                gaps = np.array([a.mean() - b.mean() for a, b in zip(hits["SMS"], parts, strict=True)])
                rows[name] |= {"SMS minus it": float(gaps.mean()), "95 %": interval(gaps)}
        result = {
            "benchmark": "frames_transfer",
            "claim": "Do frames searched with a model of single frames serve a spatio-temporal model?",
            "seeds": list(range(seed + 1)),
            "data": f"grid_s1, {WORD}, {sum(map(len, hits['uniform']))} test clips of {seed + 1} fifths",
            "budget": {"epochs": epochs, "frames": FRAMES},
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "figures": rows,
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
