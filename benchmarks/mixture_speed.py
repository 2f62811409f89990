"""Order of a mixture of 20 sources: `MixtureSampler` against `datasets.interleave_datasets` with probabilities.

Both give the indices of one epoch, measured interleaved in one process. interleave_datasets makes its order when it is
called (and a data set with an index mapping); what it costs to read rows is not counted for either.

    python -m benchmarks.mixture_speed --items 1000000 --runs 5 --out benchmarks/results/mixture_speed.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import datasets
import numpy as np

from tamis.samplers import MixtureSampler

SOURCES = 20


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    size = args.items // SOURCES
    weights = {f"s{k}": k + 1.0 for k in range(SOURCES)}
    probabilities = (np.arange(SOURCES) + 1) / np.sum(np.arange(SOURCES) + 1)
    parts = [datasets.Dataset.from_dict({"x": np.arange(size)}) for _ in range(SOURCES)]
    sampler = MixtureSampler(dict.fromkeys(weights, size), weights)
    rows = []
    for run in range(args.runs):
        sampler.set_epoch(run)
        fresh = MixtureSampler(dict.fromkeys(weights, size), weights, seed=run)
        mixed = []

        def interleave(run=run, mixed=mixed):
            options = dict(seed=run, stopping_strategy="first_exhausted")
            mixed.append(datasets.interleave_datasets(parts, probabilities.tolist(), **options))

        row = {
            "seed": run,
            "tamis_arrays": seconds(lambda fresh=fresh: [0 for _ in fresh.arrays()]),
            "tamis_iterated": seconds(lambda fresh=fresh: [0 for _ in fresh]),
            "interleave": seconds(interleave),
        }
        row["interleave_items"] = len(mixed[0])
        rows.append(row)
    per = {
        "tamis_arrays": statistics.median(row["tamis_arrays"] / len(sampler) for row in rows),
        "tamis_iterated": statistics.median(row["tamis_iterated"] / len(sampler) for row in rows),
        "interleave": statistics.median(row["interleave"] / row["interleave_items"] for row in rows),
    }
    result = {
        "benchmark": "mixture_speed", "sources": SOURCES, "items": len(sampler), "runs": rows,
        "figures": {
            name: {"ns an item": 1e9 * value, "times faster than interleave": per["interleave"] / value}
            for name, value in per.items()
        },
        "versions": {"datasets": datasets.__version__, "numpy": np.__version__},
    }  # fmt: skip
    print(json.dumps({k: v for k, v in result.items() if k != "runs"}, indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
