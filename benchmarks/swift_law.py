"""A new trial's weights for 10 M items against one `numpy.argsort` of them, and the error of the binned form.

``python -m benchmarks.swift_law [--quick]``. One thread, interleaved in one process, CPU time; ratios above 1 mean
that the law is faster than the sort.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.swift_common import versions, write
from tamis.core.rng import numpy_generator
from tamis.features.table import FeatureTable
from tamis.samplers.swift.law import SwiftLaw, aggregate, piecewise_linear
from tamis.samplers.swift.sampler import FeatureTables

RESULT = Path(__file__).parent / "results" / "swift_law.json"
LAW = SwiftLaw((1.0, -0.4), (0.2, 0.5, 0.6), (1.0, 0.9, 0.5, 0.1, 0.0))


def features(n: int) -> FeatureTable:
    rng = numpy_generator(0, n)
    loss = rng.exponential(size=n).astype(np.float32)
    entropy = (rng.random(n, dtype=np.float32) + 0.3 * loss).astype(np.float32)
    gradient = (loss * rng.random(n, dtype=np.float32)).astype(np.float32)
    columns = {"loss": torch.from_numpy(loss), "entropy": torch.from_numpy(entropy)}
    return FeatureTable({**columns, "gradient": gradient})


def cpu(function: Any) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def against_argsort(n: int, rounds: int) -> dict[str, Any]:
    data = features(n)
    start = time.process_time()
    tables = FeatureTables(data)
    once = time.process_time() - start
    g = aggregate(tables.cdfs, LAW.coefficients)
    p = tables.weights(LAW)
    peers = {"argsort of the weights": p, "argsort of G": g, "argsort of G, float32": g.astype(np.float32)}
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    ours = []
    for _ in range(rounds):
        ours.append(cpu(lambda: tables.weights(LAW)))
        for name, array in peers.items():
            seconds[name].append(cpu(lambda array=array: np.argsort(array)))
    ratios = {
        name: {
            "median": round(statistics.median(t / o for t, o in zip(times, ours, strict=True)), 2),
            "lowest": round(min(t / o for t, o in zip(times, ours, strict=True)), 2),
        }
        for name, times in seconds.items()
    }
    return {"n": n, "ratio": ratios, "new_law_s": round(statistics.median(ours), 3), "tables_once_s": round(once, 2)}


def binned_error(n: int) -> dict[str, float]:
    """The binned law against the exact one: largest difference of T, and of the probabilities in total variation."""
    data = features(n)
    tables = FeatureTables(data)
    columns = [data[name].numpy() for name in data.column_names if name != "gradient"]
    g = aggregate([np.searchsorted(np.sort(c), c, side="right") / n for c in columns], LAW.coefficients)
    order = np.argsort(g, kind="stable")
    exact_t = np.empty(n)
    exact_t[order] = np.cumsum(data["gradient"].numpy()[order], dtype=np.float64)
    exact_t /= exact_t.max()
    tau = piecewise_linear(exact_t, LAW.knots, LAW.heights)
    p = tables.weights(LAW)
    return {"n": n, "total_variation": float(0.5 * np.abs(p - tau / tau.sum()).sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 M items, 2 rounds; writes nothing")
    parser.add_argument("--huge", action="store_true", help="also 50 M items once")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "weights": against_argsort(1_000_000 if options.quick else 10_000_000, 2 if options.quick else 5),
        "binned": binned_error(1_000_000),
        "small": {"n": 10_000, "new_law_ms": round(1000 * small_law(), 2)},
    }
    if options.huge:
        figures["huge"] = against_argsort(50_000_000, 1)
        figures["huge"]["peak_rss_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(figures)
    if not options.quick:
        write(RESULT, {"benchmark": "swift_law", "seed": 0, "data": "synthetic", "budget": "5 rounds",
                       "versions": versions(), "figures": figures})  # fmt: skip


def small_law() -> float:
    tables = FeatureTables(features(10_000))
    return min(cpu(lambda: tables.weights(LAW)) for _ in range(20))


if __name__ == "__main__":
    main()
