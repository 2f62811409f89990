"""Is a law found on the small net worth anything on a larger one? The laws of `swift_noise` at noise 0.4, reused.

``python -m benchmarks.swift_transfer [--seeds 5] [--data PATH]`` after ``benchmarks.swift_noise``. The larger net has
two hidden layers of 512. ``swift_small`` keeps the small net's features; ``swift_refit`` applies the same 10 numbers
to the larger net's own features (`SwiftPolicy.fit`); ``trim_small`` is the share tuned on the small net, by its losses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import swift_common as common
from benchmarks.swift_noise import RESULT as LAWS
from tamis.samplers import SwiftLaw, SwiftPolicy, SwiftSampler
from tamis.samplers.swift.sampler import FeatureTables

RESULT = Path(__file__).parent / "results" / "swift_transfer.json"
WIDTH, DEPTH = 512, 2


def run(codes: dict[str, np.ndarray], seed: int, law: SwiftLaw, share: float) -> dict[str, float]:
    task = common.make_task(codes, 0.4, seed)
    size = {"width": WIDTH, "depth": DEPTH}
    small, large = common.shared_weights(task)[1], common.shared_weights(task, **size)[1]
    samplers = {
        "uniform": common.uniform(task, seed),
        "swift_small": SwiftSampler(SwiftPolicy.fit(law, small), small, seed=seed),
        "swift_refit": SwiftSampler(SwiftPolicy.fit(law, large), large, seed=seed),
        "trim_small": common.weighted((FeatureTables(small).cdfs[0] <= share) * 1.0, seed),
        "oracle": common.weighted(task.clean * 1.0, seed),
    }
    return {name: common.final(task, sampler, **size)["last"] for name, sampler in samplers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=common.DATA)
    parser.add_argument("--seeds", type=int, default=5, help="use the laws of so many seeds")
    parser.add_argument("--laws", type=Path, default=LAWS, help="result file of benchmarks.swift_noise")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codes = common.encoded(options.data)
    runs: list[dict[str, Any]] = []
    searched = [found for found in json.loads(options.laws.read_text())["runs"] if found["noise"] == 0.4]
    for found in searched[: options.seeds]:
        law = SwiftLaw.from_vector(tuple(found["methods"]["swift"]["law"]))
        share = found["methods"]["trim"]["share"]
        runs.append({"seed": found["seed"], "accuracy": run(codes, found["seed"], law, share)})
        print(runs[-1], flush=True)
        acc = {name: [r["accuracy"][name] for r in runs] for name in runs[0]["accuracy"]}
        figures: dict[str, Any] = {"accuracy": {name: round(float(np.mean(v)), 4) for name, v in acc.items()}}
        figures["minus_uniform"] = {n: common.paired(v, acc["uniform"]) for n, v in acc.items() if n != "uniform"}
        figures["swift_small_minus"] = {
            n: common.paired(acc["swift_small"], v) for n, v in acc.items() if n != "swift_small"
        }
        result = {"benchmark": "swift_transfer", "seeds": [r["seed"] for r in runs], "data": "as swift_noise",
                  "budget": {"final_epochs": common.FINAL_EPOCHS}, "versions": common.versions(), "figures": figures,
                  "runs": runs}  # fmt: skip
        common.write(options.out, result)


if __name__ == "__main__":
    main()
