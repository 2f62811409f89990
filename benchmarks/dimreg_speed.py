"""What DimReg costs while training and gains at inference: goals 3a to 3f, each a ratio measured in one process.

All contenders of a figure take turns in every round; a figure is the median over rounds of the ratio of their CPU
times, on one thread. ``python -m benchmarks.dimreg_speed`` (about 5 minutes) writes ``results/dimreg_speed.json``.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tamis
from benchmarks.peak_memory import PeakMemory
from tamis.pruners import DimReg, Step, cut
from tamis.pruners.dimreg.polarisation import pair_polarisation_with_grad
from tamis.pruners.stats import correlation, weighted_moments

TARGET = Path(__file__).parent / "results" / "dimreg_speed.json"
STEPS_IN_ALL = 20_000  # of the training that the measured steps stand for
DECIDING = 0.31  # share of it that is done: inside the schedule, where a step costs most
LOOKS = 2  # at the tables in a training


class Net(nn.Module):
    """Embeddings, concatenated, and an MLP with two hidden layers."""

    def __init__(self, sizes: list[int], dim: int, sparse: bool, hidden: int = 1024) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, dim, sparse=sparse) for size in sizes)
        self.mlp = nn.Sequential(
            nn.Linear(len(sizes) * dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, ids: Tensor) -> Tensor:
        rows = [table(column) for table, column in zip(self.tables, ids.unbind(1), strict=True)]
        return self.mlp(torch.cat(rows, dim=1)).squeeze(1)


def field_sizes(fields: int, rows: int) -> list[int]:
    """Skewed as in click logs: each table half of what is left, then the small ones."""
    sizes, left = [], rows
    for _ in range(fields):
        sizes.append(max(10, left // 2))
        left = max(20, left - sizes[-1])
    return sizes


def batch_of(sizes: list[int], batch: int, seed: int) -> Tensor:
    """Zipf ids [batch, fields]."""
    rng = np.random.default_rng(seed)
    columns = [(rng.zipf(1.2, batch) - 1) % size for size in sizes]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.int64))


def race(contenders: dict[str, Callable[[], Any]], rounds: int, base: str) -> dict[str, Any]:
    """Per contender: median CPU milliseconds, and the median and range over rounds of its ratio to ``base``."""
    for run in contenders.values():
        run()
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            started = time.process_time()
            run()
            spent[name].append(time.process_time() - started)
    figures = {}
    for name, times in spent.items():
        ratios = np.array(times) / np.array(spent[base])
        figures[name] = {
            "ms": round(1e3 * float(np.median(times)), 3),
            "time_ratio": round(float(np.median(ratios)), 4),
            "range": [round(float(ratios.min()), 4), round(float(ratios.max()), 4)],
        }
    return figures


def stepper(
    net: Net,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: list[Tensor],
    pruner: DimReg | None,
    own: list[float] | None = None,
) -> Any:
    """One training step per call; ``own`` gets the CPU seconds of the pruner's penalty and step."""
    state = {"i": 0}
    labels = torch.rand(len(batches[0]), generator=torch.Generator().manual_seed(1)).round()

    def step() -> None:
        ids = batches[state["i"] % len(batches)]
        state["i"] += 1
        started = time.process_time()
        if pruner is not None:
            pruner.add_penalty_grad()
        spent = time.process_time() - started
        loss = nn.functional.binary_cross_entropy_with_logits(net(ids), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if pruner is not None:
            started = time.process_time()
            pruner.step()
            if own is not None:
                own.append(spent + time.process_time() - started)

    return step


def contender(sizes: list[int], batches: list[Tensor], optimizer: str, gated: bool) -> tuple[Any, DimReg | None]:
    """A training step and its pruner; ``optimizer``: sparse, dense fused or dense default."""
    net = Net(sizes, 128, optimizer == "sparse")
    pruner = None
    if gated:
        pruner = DimReg(net, keep=0.2, total_steps=STEPS_IN_ALL)
        pruner._taken = int(DECIDING * STEPS_IN_ALL)
        pruner.rule.looked = pruner._taken  # the looks are timed apart
    optimizers: list[Any] = []
    if optimizer == "sparse":
        optimizers = [torch.optim.SparseAdam(list(net.tables.parameters())), torch.optim.Adam(net.mlp.parameters())]
    else:
        optimizers = [torch.optim.Adam(net.parameters(), fused=optimizer == "dense fused" or None)]
    return stepper(net, optimizers, batches, pruner), pruner


def training_steps(fields: int, rows: int, batch: int, rounds: int) -> dict[str, Any]:
    """3a and 3b: steps with and without DimReg, in three races (one at a time, for the memory)."""
    sizes = field_sizes(fields, rows)
    batches = [batch_of(sizes, batch, seed) for seed in range(8)]
    result: dict[str, Any] = {"fields": fields, "rows": sum(sizes), "batch": batch}
    look = 0.0
    for base, others in (
        ("sparse", ["sparse + DimReg"]),
        ("dense fused", ["dense fused + DimReg"]),
        ("sparse + DimReg", ["dense fused", "dense default"]),
    ):
        made = {
            name: contender(sizes, batches, name.removesuffix(" + DimReg"), "DimReg" in name)
            for name in [base, *others]
        }
        figures = race({name: step for name, (step, _) in made.items()}, rounds, base)
        if base == "sparse":
            look = look_ms(made["sparse + DimReg"][1])
            result |= {"look_ms": look, "looks": LOOKS, "steps of the training": STEPS_IN_ALL}
        if "DimReg" not in base:
            share = LOOKS * look / STEPS_IN_ALL / figures[base]["ms"]
            result[f"{base}: with over without"] = round(figures[others[0]]["time_ratio"] + share, 4)
        result[f"race, base {base}"] = figures
        del made
    return result


def look_ms(pruner: DimReg) -> float:
    """CPU milliseconds of one look at the tables."""
    step = Step(pruner.steps_taken, STEPS_IN_ALL)
    look = {"look": lambda: pruner.rule.look(pruner.gates, pruner.tables, step)}
    return float(race(look, 3, "look")["look"]["ms"])


def flat_in_rows(all_rows: list[int], batch: int, rounds: int) -> dict[str, Any]:
    """A step with and without DimReg as the tables grow: 22 fields, d = 16, an MLP 64-64-1, SGD on sparse gradients.

    All sizes take turns. ``counting``: 8 steps before the decision, on one of which lookups are counted; ``decided``:
    8 after it. ``own ms``: of one step, penalty and `DimReg.step` alone, with their share of the looks at the tables;
    ``own, of the smallest``: its ratio to the first size. ``counting by tables``: what release 0.1 did on every 8th
    step, to the end, for the largest table.
    """
    steps: dict[str, Callable[[], Any]] = {}
    pruners, own, figures = {}, {}, {}
    for rows in all_rows:
        sizes, name = field_sizes(22, rows), f"{rows:.0e} rows"
        batches = [batch_of(sizes, batch, seed) for seed in range(8)]
        nets = [Net(sizes, 16, True, hidden=64) for _ in range(2)]
        pruners[name], own[name] = DimReg(nets[1], size=0.2, total_steps=STEPS_IN_ALL), []
        for net, pruner in zip(nets, (None, pruners[name]), strict=True):
            sgd = [torch.optim.SGD(net.parameters(), lr=1e-3)]
            one = stepper(net, sgd, batches, pruner, own[name])
            steps[f"{name}{', with' if pruner else ''}"] = lambda one=one: [one() for _ in range(8)]
        by_tables = race({"old": dense_count(max(sizes))}, 5, "old")["old"]["ms"]
        figures[name] = {"look_ms": look_ms(pruners[name]), "counting by tables, ms": by_tables}
    for phase, done in (("counting", 0.1), ("decided", 0.5)):
        for name, pruner in pruners.items():
            pruner._taken = 8 * int(done * STEPS_IN_ALL / 8)
            own[name].clear()
        raced = race(steps, rounds, next(iter(steps)))
        each = {name: np.array(spent[8:]).reshape(-1, 8).mean(1) for name, spent in own.items()}
        looks = {name: 1e-3 * LOOKS * figures[name]["look_ms"] / STEPS_IN_ALL for name in own}
        for name, spent in each.items():
            with_, without = raced[f"{name}, with"]["ms"] / 8, raced[name]["ms"] / 8
            smallest = each[next(iter(each))] + looks[next(iter(each))]
            figures[name][phase] = {
                "without, ms": round(without, 3),
                "with, ms": round(with_, 3),
                "with over without": round(with_ / without, 3),
                "own ms": round(1e3 * float(np.median(spent + looks[name])), 3),
                "own, of the smallest": round(float(np.median((spent + looks[name]) / smallest)), 3),
            }
    return {"batch": batch, "fields": 22, "dim": 16, "steps of the training": STEPS_IN_ALL, **figures}


def dense_count(rows: int) -> Callable[[], None]:
    """Counting lookups as release 0.1 did: over every row."""
    fresh, counts = torch.zeros(2, rows, dtype=torch.int32).unbind(0)
    largest = torch.iinfo(torch.int32).max

    def merge() -> None:
        counts.add_(torch.minimum(fresh, largest - counts))
        fresh.zero_()

    return merge


def pearson(rows: int, rounds: int) -> dict[str, Any]:
    """3c: one table of 128 columns, plain and weighted, against torch.corrcoef; errors at three means; memory."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, 128, generator=generator) @ torch.randn(128, 128, generator=generator) / 11
    counts = torch.randint(0, 50, (rows,), generator=generator, dtype=torch.int32)
    contenders = {
        "torch.corrcoef": lambda: torch.corrcoef(table.T),
        "tamis": lambda: correlation(weighted_moments(table)[1]),
        "tamis, weighted by lookups": lambda: correlation(weighted_moments(table, counts)[1]),
    }
    figures = race(contenders, rounds, "torch.corrcoef")
    errors = {}
    for mean in (0.0, 1.0, 100.0):
        moved = table[: rows // 5] + mean
        wanted = torch.from_numpy(np.corrcoef(moved.double().numpy(), rowvar=False))
        errors[str(mean)] = {
            "tamis": float((correlation(weighted_moments(moved)[1]) - wanted).abs().max()),
            "torch.corrcoef": float((torch.corrcoef(moved.T).double() - wanted).abs().max()),
        }
    memory = {}
    for name, run in contenders.items():
        peak = PeakMemory([table, counts])
        with peak:
            run()
        memory[name] = round(peak.extra / 2**20, 2)
    memory["one table"] = round(table.nbytes / 2**20, 2)
    return {"rows": rows, "race": figures, "max_error_at_mean": errors, "peak extra MiB": memory}


def pair_penalty(rounds: int) -> dict[str, Any]:
    """3d: value and gradient of the pairs' penalty, 39 fields x 128, a tenth of all pairs."""
    generator = torch.Generator().manual_seed(0)
    phi = torch.rand(39, 128, generator=generator, requires_grad=True)
    upper = torch.triu_indices(128, 128, offset=1)
    every = torch.cat([upper + 128 * field for field in range(39)], dim=1)
    pairs = every[:, torch.randperm(every.shape[1], generator=generator)[: every.shape[1] // 10]]
    field, first, second = pairs[0] // 128, pairs[0] % 128, pairs[1] % 128
    flat = phi.detach().reshape(-1)

    def gather() -> Tensor:
        a, b = phi[field, first], phi[field, second]
        value = (0.0 * (a + b) - (a - b).abs()).mean()
        return torch.autograd.grad(value, phi)[0]

    def closed() -> Tensor:
        return pair_polarisation_with_grad(flat, pairs, 0.0)[1]

    error = float((gather().reshape(-1) - closed()).abs().max())
    return {
        "pairs": pairs.shape[1],
        "race": race({"autograd gather": gather, "tamis": closed}, rounds, "autograd gather"),
        "max_difference": error,
    }


@torch.no_grad()
def inference(batch: int, rounds: int, rows: int) -> dict[str, Any]:
    """3e and 3f: 39 fields, 14 % of the dimensions kept at random, columns cut or projected."""
    sizes = field_sizes(39, rows)
    wide = Net(sizes, 128, False).eval()
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(39, 128, generator=generator) < 0.14
    for table, mask in zip(wide.tables, keep, strict=True):
        table.weight.mul_(mask)
    kept = {f"tables.{i}": mask.nonzero()[:, 0] for i, mask in enumerate(keep)}
    columns, scatter, project = (copy.deepcopy(wide) for _ in range(3))
    cut(columns, kept, consumers={"mlp.0": [f"tables.{i}" for i in range(39)]})
    cut(scatter, kept)
    cut(project, kept, project=True)
    ids = batch_of(sizes, batch, 3)
    wanted = wide(ids)
    scale = float(wanted.abs().max())
    nets = {"unpruned": wide, "columns cut": columns, "zeros put back": scatter, "projected": project}
    figures = race({name: (lambda net=net: net(ids)) for name, net in nets.items()}, rounds, "unpruned")
    for name, net in nets.items():
        figures[name]["difference_of_scale"] = float((net(ids) - wanted).abs().max()) / scale
        figures[name]["MiB"] = round(sum(p.numel() * p.element_size() for p in net.parameters()) / 2**20, 1)
        figures[name]["faster"] = round(1 / figures[name]["time_ratio"], 2)
    return {"batch": batch, "kept": float(keep.float().mean()), "race": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=["flat", "steps", "pearson", "pairs", "inference"])
    parser.add_argument("--quick", action="store_true", help="small and few; nothing written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, batch = (20_000, 256) if args.quick else (1_000_000, 2048)
    rounds = 2 if args.quick else args.rounds
    result = json.loads(TARGET.read_text()) if TARGET.exists() else {"benchmark": "dimreg_speed"}
    result |= {
        "seed": 0,
        "data": "synthetic: Zipf ids, random tables",
        "budget": {"rounds": rounds, "threads": 1, "clock": "CPU time"},
        "versions": {"tamis": tamis.__version__, "torch": torch.__version__},
    }
    figures = result.setdefault("figures", {})
    jobs: dict[str, Callable[[], Any]] = {
        "pairs": lambda: pair_penalty(rounds * 10),
        "pearson": lambda: pearson(rows // 2, rounds),
        "inference": lambda: [inference(size, rounds, rows) for size in (256, batch)],
        "flat": lambda: flat_in_rows([rows // 10, rows, rows * 10], batch, rounds),
        "steps": lambda: [training_steps(fields, rows, batch, rounds) for fields in (39, 22)],
    }
    for name, job in jobs.items():
        if name in args.only:
            figures[name] = job()
            print(name, json.dumps(figures[name], indent=1), flush=True)
            if not args.quick:
                TARGET.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
