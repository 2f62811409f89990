"""Which optimizer should `search_swift` use? The same search, noise 0.4, by each of the four.

``python -m benchmarks.swift_optimizers [--quick] [--out FILE] [--data PATH]``. Reported per optimizer: the best
validation score found, the mean score of the last 20 trials, the clean test accuracy of the law found, trained from
scratch (mean of two trainings).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import swift_common as common
from tamis.optimizers.bayesian import OPTIMIZERS
from tamis.samplers import SwiftSampler
from tamis.search import search_swift

RESULT = Path(__file__).parent / "results" / "swift_optimizers.json"


def run(codes: dict[str, np.ndarray], seed: int, trials: int) -> dict[str, Any]:
    task = common.make_task(codes, 0.4, seed)
    net, features, _ = common.shared_weights(task)
    rows = {}
    for optimizer in OPTIMIZERS:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as out:
            policy = search_swift(
                common.fit_from(net, task), features, model=net, trials=trials, seed=seed, out=out, optimizer=optimizer,
                plain=False, repeats=0,
            )  # fmt: skip
            lines = (Path(out) / "journal.jsonl").read_text().splitlines()[1:]
        seconds = time.process_time() - start
        scores = [json.loads(line)["score"] for line in lines]
        sampler = SwiftSampler(policy, features, seed=seed)
        final = float(np.mean([common.final(task, sampler, seed=s)["last"] for s in (seed, seed + 50)]))
        rows[optimizer] = {
            "best": max(scores),
            "late_mean": float(np.mean(scores[trials // 2 :])),
            "final": final,
            "cpu_s": round(seconds, 1),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=common.DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, 10 trials; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codes = common.encoded(options.data)
    runs: list[dict[str, Any]] = []
    for seed in range(1 if options.quick else options.seeds):
        runs.append(run(codes, seed, 10 if options.quick else 40))
        print(seed, runs[-1], flush=True)
        keys = ("best", "late_mean", "final", "cpu_s")
        figures: dict[str, Any] = {
            o: {k: round(float(np.mean([r[o][k] for r in runs])), 4) for k in keys} for o in OPTIMIZERS
        }
        figures["tpe_minus"] = {
            o: {k: common.paired([r["tpe"][k] for r in runs], [r[o][k] for r in runs]) for k in keys[:3]}
            for o in OPTIMIZERS
            if o != "tpe"
        }
        if not options.quick:
            result = {"benchmark": "swift_optimizers", "seeds": list(range(len(runs))), "data": "as swift_noise",
                      "budget": {"trials": 40, "trial_epochs": common.TRIAL_EPOCHS}, "versions": common.versions(),
                      "figures": figures, "runs": runs}  # fmt: skip
            common.write(options.out, result)


if __name__ == "__main__":
    main()
