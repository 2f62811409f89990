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


def summary(rows, items):
    """The result as the results page reads it: medians over runs, and every run."""
    names = {"MixtureSampler, arrays": "tamis_arrays", "MixtureSampler, iterated": "tamis_iterated"}
    figures = {}
    for name, key in {**names, "interleave_datasets": "interleave"}.items():
        counts = [row["interleave_items"] if key == "interleave" else items for row in rows]
        each = [1e9 * row[key] / count for row, count in zip(rows, counts, strict=True)]
        figures[name] = {"ns an item, median": statistics.median(each), "least": min(each), "most": max(each)}
    ours, theirs = (figures[name]["ns an item, median"] for name in ("MixtureSampler, iterated", "interleave_datasets"))
    return {
        "benchmark": "mixture_speed",
        "note": f"An epoch's indices are made {theirs / ours:.1f} times as fast as by interleave_datasets (medians).",
        "data": f"{SOURCES} sources, {items} items, weights 1 to {SOURCES}",
        "seeds": [row["seed"] for row in rows],
        "budget": {"runs": len(rows), "threads": 1},
        "figures": {"order": figures},
        "versions": {"datasets": datasets.__version__, "numpy": np.__version__},
        "runs": rows,
    }


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
    result = summary(rows, len(sampler))
    print(json.dumps(result["figures"], indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
