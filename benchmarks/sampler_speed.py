"""Speed and memory of `WeightedSampler` against `torch.utils.data.WeightedRandomSampler`.

Every figure is a ratio (peer's time / ours, so 3 means three times faster): both run interleaved in one process on
one thread, in CPU time; reported is the median of the rounds' ratios with the smallest and the largest. Weights are
log-normal (sigma 1.5), float64. ``python -m benchmarks.sampler_speed [--quick] [--sizes 1e5 1e6 1e7] [--rounds 7]``
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, Sampler, WeightedRandomSampler

from tamis.core.rng import numpy_generator
from tamis.samplers import WeightedSampler

RESULT = Path(__file__).parent / "results" / "sampler_speed.json"
SEED = 0
GOALS = {  # ratio at 1e6 items
    "replacement, list": 4.5,
    "replacement, arrays": 10.0,
    "new weights, list": 2.8,
    "new weights, arrays": 4.0,
    "systematic, batches": 5.0,
    "no replacement, k=N/10, list": 4.0,
    "no replacement, k=N, list": 2.5,
}


def log_normal(count: int, *key: int) -> np.ndarray:
    return numpy_generator(SEED, *key).lognormal(0, 1.5, count)


def drain(iterable: Iterable[Any]) -> None:
    for _ in iterable:
        pass


def batches(sampler: Sampler[int]) -> None:
    drain(BatchSampler(sampler, 256, drop_last=False))


def contenders(count: int) -> dict[str, tuple[str, Callable[[int], object]]]:
    """Name -> (its peer's name, function of the round)."""
    weights = log_normal(count)
    tensor = torch.from_numpy(weights)
    fresh = [log_normal(count, 1), log_normal(count, 2)]
    with_replacement = WeightedSampler(weights)
    changing = WeightedSampler(weights)
    comb = WeightedSampler(weights, method="systematic")
    tenth = WeightedSampler(weights, count // 10, replacement=False)
    whole = WeightedSampler(weights, count, replacement=False)
    torch_with = WeightedRandomSampler(tensor, count, True)  # type: ignore[arg-type]
    torch_tenth = WeightedRandomSampler(tensor, count // 10, False)  # type: ignore[arg-type]
    torch_whole = WeightedRandomSampler(tensor, count, False)  # type: ignore[arg-type]

    def epoch(sampler: WeightedSampler, number: int) -> WeightedSampler:
        sampler.set_epoch(number)
        return sampler

    def changed(number: int) -> WeightedSampler:
        changing.set_weights(fresh[number % 2])
        return epoch(changing, number)

    def torch_changed(number: int) -> list[int]:
        return list(WeightedRandomSampler(torch.from_numpy(fresh[number % 2]), count, True))  # type: ignore[arg-type]

    return {
        "torch, replacement": ("", lambda r: list(torch_with)),
        "replacement, list": ("torch, replacement", lambda r: list(epoch(with_replacement, r))),
        "replacement, arrays": ("torch, replacement", lambda r: drain(epoch(with_replacement, r).arrays())),
        "systematic, list": ("torch, replacement", lambda r: list(epoch(comb, r))),
        "systematic, arrays": ("torch, replacement", lambda r: drain(epoch(comb, r).arrays())),
        "torch, new weights": ("", torch_changed),
        "new weights, list": ("torch, new weights", lambda r: list(changed(r))),
        "new weights, arrays": ("torch, new weights", lambda r: drain(changed(r).arrays())),
        "torch, batches": ("", lambda r: batches(torch_with)),
        "replacement, batches": (
            "torch, batches",
            lambda r: batches(epoch(with_replacement, r)),
        ),
        "systematic, batches": ("torch, batches", lambda r: batches(epoch(comb, r))),
        "torch, no replacement, k=N/10": ("", lambda r: list(torch_tenth)),
        "no replacement, k=N/10, list": ("torch, no replacement, k=N/10", lambda r: list(epoch(tenth, r))),
        "no replacement, k=N/10, arrays": ("torch, no replacement, k=N/10", lambda r: drain(epoch(tenth, r).arrays())),
        "torch, no replacement, k=N": ("", lambda r: list(torch_whole)),
        "no replacement, k=N, list": ("torch, no replacement, k=N", lambda r: list(epoch(whole, r))),
        "no replacement, k=N, arrays": ("torch, no replacement, k=N", lambda r: drain(epoch(whole, r).arrays())),
    }


def measure_ratios(count: int, rounds: int) -> dict[str, dict[str, float]]:
    table = contenders(count)
    times: dict[str, list[float]] = {name: [] for name in table}
    for number in range(rounds + 1):
        for name, (_, run) in table.items():
            begin = time.process_time()
            run(number)
            if number:  # round 0 warms up
                times[name].append(time.process_time() - begin)
    figures = {}
    for name, (peer, _) in table.items():
        if peer:
            ratios = [theirs / ours for theirs, ours in zip(times[peer], times[name], strict=True)]
            figures[name] = {"ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
            if name in GOALS:
                figures[name]["goal_at_1e6"] = GOALS[name]
    return figures


MEMORY: dict[str, Callable[[np.ndarray], Sampler[int]]] = {  # contender: how to build it from the weights
    "torch, replacement": lambda w: WeightedRandomSampler(torch.from_numpy(w), len(w), True),  # type: ignore[arg-type]
    "torch, no replacement, k=N": lambda w: WeightedRandomSampler(torch.from_numpy(w), len(w), False),  # type: ignore[arg-type]
    "replacement": WeightedSampler,
    "systematic": lambda w: WeightedSampler(w, method="systematic"),
    "no replacement, k=N/10": lambda w: WeightedSampler(w, len(w) // 10, replacement=False),
    "no replacement, k=N": lambda w: WeightedSampler(w, replacement=False),
}


def memory_of(name: str, count: int) -> None:
    """Print the peak bytes per item above the weights of building ``name`` and stepping through an epoch.

    Two measures: the process' peak resident size (Linux; torch's allocations count), and tracemalloc's peak (numpy's
    and Python's). Run in a process of its own.
    """
    weights = log_normal(count)
    build = MEMORY[name]
    drain(build(weights[:1000]))  # imports and first-call costs

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    drain(build(weights))
    figures = {"resident": (resident("VmHWM") - before) / count}
    if not name.startswith("torch"):
        tracemalloc.start()
        drain(build(weights))
        figures["tracemalloc"] = tracemalloc.get_traced_memory()[1] / count
    print(json.dumps(figures))


def measure_memory(count: int) -> dict[str, dict[str, float]]:
    figures = {}
    for name in MEMORY:
        command = [sys.executable, "-m", "benchmarks.sampler_speed", "--memory-of", name, "--sizes", str(count)]
        figures[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def measure_many(count: int) -> dict[str, Any]:
    """An epoch of ``count`` items with and without replacement, and what torch says to it."""
    weights = log_normal(count).astype(np.float32)
    figures: dict[str, Any] = {"items": count}
    for name, sampler in (
        ("replacement", WeightedSampler(weights)),
        ("no replacement, k=N", WeightedSampler(weights, replacement=False)),
    ):
        seen = np.zeros(count, np.uint8 if name != "replacement" else np.uint32)
        begin = time.process_time()
        drawn = 0
        for array in sampler.arrays():
            drawn += len(array)
            np.add.at(seen, array, 1) if name == "replacement" else seen.__setitem__(array, 1)
        figures[name] = {"drawn": drawn, "distinct": int(np.count_nonzero(seen)), "cpu_s": time.process_time() - begin}
    try:
        iter(list(WeightedRandomSampler(torch.from_numpy(weights), 1, True)))  # type: ignore[arg-type]
        figures["torch"] = "works"
    except RuntimeError as error:
        figures["torch"] = str(error)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1e5 items, 3 rounds, nothing written")
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e5, 1e6, 1e7])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--memory-of", choices=list(MEMORY), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        memory_of(options.memory_of, int(options.sizes[0]))
        return
    if options.quick:
        options.sizes, options.rounds = [1e5], 3
    result: dict[str, Any] = {
        "benchmark": "sampler_speed",
        "seed": SEED,
        "data": "log-normal weights, sigma 1.5, float64 (float32 at 50 M)",
        "budget": {"rounds": options.rounds, "threads": 1},
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "figures": {"ratio": {}},
    }

    def write() -> None:
        if not options.quick:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")

    for size in map(int, options.sizes):
        result["figures"]["ratio"][str(size)] = measure_ratios(size, options.rounds)
        for name, row in result["figures"]["ratio"][str(size)].items():
            print(f"{size:>9} {name:32} x{row['ratio']:.2f}  [{row['min']:.2f}, {row['max']:.2f}]", flush=True)
        write()
    largest = int(max(options.sizes))
    if sys.platform == "linux":
        result["figures"]["memory_bytes_per_item"] = {"items": largest, **measure_memory(largest)}
        print(json.dumps(result["figures"]["memory_bytes_per_item"], indent=1), flush=True)
        write()
    if not options.quick:
        result["figures"]["many_items"] = measure_many(50_000_000)
        print(json.dumps(result["figures"]["many_items"], indent=1))
        write()


if __name__ == "__main__":
    main()
