"""Claim: choosing 1 in b of 10 M candidates costs no more than the agent's forward pass over them; memory is flat."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from tamis.core.rng import torch_generator
from tamis.samplers import CurriculumSampler
from tamis.samplers.curriculum.agent import AgentNetwork, initialise

GROUPS = {"length": 2, "log_likelihood": 2, "rarity": 32}


def memory(name):
    """``VmRSS`` (resident now) or ``VmHWM`` (its peak since `forget_peak`) of this process, in KiB; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def forget_peak():
    """Begin the peak of the memory anew, else it is that of what ran before."""
    Path("/proc/self/clear_refs").write_text("5")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curriculum_selection.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count, block = 100_000 if args.quick else 10_000_000, 1 << 16
    agent = AgentNetwork(GROUPS)
    initialise(agent, 1)
    rows = torch.randn(block, sum(GROUPS.values()), generator=torch_generator(2))
    start = time.process_time()
    with torch.no_grad():
        agent(rows)
    forward = (time.process_time() - start) * count / block
    scores = torch.randn(count, generator=torch_generator(3))
    figures = {"candidates": count, "forward_cpu_seconds_by_extrapolation_from_one_block": forward}
    for pool in (16, 128):
        sampler = CurriculumSampler(scores, pool=pool)
        forget_peak()
        before, start = memory("VmRSS"), time.process_time()
        chosen = sum(len(part) for part in sampler.arrays())
        seconds = time.process_time() - start
        figures[f"pool_{pool}"] = {
            "chosen": chosen,
            "selection_cpu_seconds": seconds,
            "share_of_the_forward_pass": seconds / forward,
            "peak_memory_above_the_scores_mib": (memory("VmHWM") - before) / 1024,
        }
    result = {"benchmark": "curriculum_selection", "seed": 1, "data": "made up", "budget": "one thread"}
    result |= {"versions": {"torch": torch.__version__, "numpy": np.__version__}, "figures": figures}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
