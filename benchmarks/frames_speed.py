"""Speed of Guided Local Search's objectives, of selecting frames and of decoding them, each against its peer.

Every figure is a ratio (peer's time / ours), both interleaved in one process on one thread: candidates scored by one
torch call each against all swaps of a combination at once; a selection against the forward pass of the model that gets
the frames; our exact reader against decoding all frames up to the last chosen one with PyAV.
``python -m benchmarks.frames_speed [--quick] [--data PATH]``
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tamis.core.rng import numpy_generator, torch_generator
from tamis.optimizers.frame_costs import CosineObjective, MeanLogitObjective, MlpObjective
from tamis.transforms.frames.map import make_map
from tamis.transforms.frames.policy import FramePolicy
from tamis.transforms.frames.selectors import ClipView
from tamis.transforms.frames.video import open_video

RESULT = Path(__file__).parent / "results" / "frames_speed.json"
DATA = Path(__file__).parents[2] / "shared" / "data"
FRAMES, CHOSEN, FEATURE, CLASSES, HIDDEN = 100, 8, 2048, 200, 512
RECOMPUTED = "linear head, every sum underflows"
GOALS = {"linear head": 1000.0, RECOMPUTED: 200.0, "cosine": 300.0, "MLP head": 80.0}


def seconds(job: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        job()
    return (time.process_time() - start) / repeats


def scoring(rounds: int) -> dict[str, Any]:
    """Candidates a second of each objective, as a ratio to a torch call per candidate."""
    rng = numpy_generator(0)
    features = rng.standard_normal((FRAMES, FEATURE)).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        linear = nn.Linear(FEATURE, CLASSES)
        mlp = nn.Sequential(nn.Linear(FEATURE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    tensor, target, label = torch.from_numpy(features), torch.randn(FEATURE, generator=torch_generator(1)), 3
    chosen, positions = rng.integers(FRAMES, size=CHOSEN), np.arange(CHOSEN)
    index, truth = torch.from_numpy(chosen), torch.tensor([label])
    logits = features @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    # the class that leads in one frame is thousands behind in every other: the worst case for the factored form
    wide = logits.astype(np.float64) + 1e5 * (np.arange(FRAMES)[:, None] == np.arange(CLASSES))
    parts = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (mlp[0], mlp[2])]
    ours = {
        "linear head": MeanLogitObjective(logits, label),
        RECOMPUTED: MeanLogitObjective(wide, label),
        "cosine": CosineObjective(features, target.numpy()),
        "MLP head": MlpObjective(features, parts[0], parts[1], label),
    }
    call = {
        "linear head": lambda: nn.functional.cross_entropy(linear(tensor[index].mean(0, keepdim=True)), truth).item(),
        "cosine": lambda: 1 - nn.functional.cosine_similarity(tensor[index].mean(0), target, dim=0).item(),
        "MLP head": lambda: nn.functional.cross_entropy(mlp(tensor[index].mean(0, keepdim=True)), truth).item(),
    }
    found: dict[str, Any] = {}
    with torch.inference_mode():
        for name, objective in ours.items():
            peer = call[name.split(",")[0]]
            agree = None if name == RECOMPUTED else abs(objective.costs(chosen[None])[0] - peer())
            objective.swaps(chosen, positions)
            ratios, rates = [], []
            for _ in range(rounds):
                one = seconds(peer, 30)
                many = seconds(lambda o=objective: o.swaps(chosen, positions), 20) / (CHOSEN * FRAMES)
                ratios.append(one / many)
                rates.append(1 / many)
            found[name] = {
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "goal": GOALS[name],
                "candidates_per_second": statistics.median(rates),
                "largest difference": agree,
            }
    return found


def selecting(rounds: int) -> dict[str, Any]:
    """Stage 2 and 3 for one clip, as a share of a VideoMAE-base forward pass on the chosen frames."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    dim, width = 144, 128
    network = make_map("transformer", dim + 8, width, seed=0)
    policy = FramePolicy(
        num_frames=16,
        feature_size=dim,
        width=width,
        weights={name: value.detach().clone() for name, value in network.state_dict().items()},
        scale={"mean": torch.zeros(dim), "std": torch.ones(dim)},
        encoder={},
        profile=torch.full((100,), 0.01),
    )
    selector = policy.selector()
    view = ClipView(FRAMES, numpy_generator(2).standard_normal((FRAMES, dim)))
    model = VideoMAEForVideoClassification(VideoMAEConfig(num_frames=16)).eval()
    pixels = torch.zeros(1, 16, 3, 224, 224)
    selector.select(view, 16)
    shares, select_ms = [], []
    with torch.inference_mode():
        for _ in range(rounds):
            select = seconds(lambda: selector.select(view, 16), 5)
            shares.append(select / seconds(lambda: model(pixels), 1))
            select_ms.append(1000 * select)
    return {
        "selection / forward of VideoMAE-base": statistics.median(shares),
        "goal": 0.10,
        "selection, ms": statistics.median(select_ms),
    }


def decoding(rounds: int, data: Path) -> dict[str, Any]:
    """Eight chosen frames of a GRID clip, and the first pass over all its frames at thumbnail size."""
    import av
    import pyarrow.parquet as pq

    from tamis.transforms.frames.encoder import PixelEncoder

    contents = pq.read_table(data / "grid_s1" / "clips.parquet", columns=["video"]).slice(0, 5).to_pydict()["video"]
    chosen = np.array([9, 11, 12, 14, 15, 17, 18, 20])

    def plain(content: bytes) -> None:
        """PyAV alone: decode up to the last chosen frame, convert the chosen ones."""
        with av.open(io.BytesIO(content)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in chosen:
                    frame.to_ndarray(format="rgb24")
                if number == chosen[-1]:
                    break

    def tuned(content: bytes) -> None:
        """The same with one conversion, on one thread, for all frames."""
        converter = av.video.reformatter.VideoReformatter()
        with av.open(io.BytesIO(content)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in chosen:
                    converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                if number == chosen[-1]:
                    break

    def ours(content: bytes) -> None:
        video = open_video(content, backend="pyav")
        video.frames(chosen)
        video.close()

    encoder = PixelEncoder.pixels((32, 48))

    def features(content: bytes) -> None:
        video = open_video(content, backend="pyav")
        encoder(video.frames(np.arange(video.num_frames), encoder.size))
        video.close()

    ratios, best, first = [], [], []
    for _ in range(rounds):
        for content in contents:
            mine = seconds(lambda c=content: ours(c), 3)
            ratios.append(seconds(lambda c=content: plain(c), 3) / mine)
            best.append(seconds(lambda c=content: tuned(c), 3) / mine)
            first.append(1000 * seconds(lambda c=content: features(c), 1))
    return {
        "plain PyAV / ours, 8 chosen frames": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "goal": 1.0,
        "PyAV with one conversion for all frames / ours": statistics.median(best),
        "features of 75 frames, ms": statistics.median(first),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds instead of 7")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds grid_s1")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rounds = 2 if args.quick else 7
    result: dict[str, Any] = {
        "benchmark": "frames_speed",
        "seeds": [0],
        "data": f"random features, m = {FRAMES}, n = {CHOSEN}, D = {FEATURE}, C = {CLASSES}, hidden {HIDDEN}; grid_s1",
        "budget": {"rounds": rounds},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "figures": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[str, Callable[[], dict[str, Any]]]] = [("scoring", lambda: scoring(rounds))]
    jobs += [("selecting", lambda: selecting(rounds))]
    if (args.data / "grid_s1" / "clips.parquet").exists():
        jobs += [("decoding", lambda: decoding(rounds, args.data))]
    else:
        print(f"no {args.data}/grid_s1: decoding is not measured")
    for name, job in jobs:
        result["figures"][name] = job()
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        print(name, json.dumps(result["figures"][name], indent=1))


if __name__ == "__main__":
    main()
