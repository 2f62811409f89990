"""DNIS against magnitude pruning, narrow tables and other rivals on MovieLens-1M, at equal kept share and equal budget.

``python -m benchmarks.dnis_movielens --model mf --tune`` chooses learning rates, decays, warm starts, blocks and powers
on the validation part of seed 100, which is not reported; then ``--seeds 0 1 2 3 4`` adds their runs to
``results/dnis_movielens_MODEL.json`` as they go, and goes on where it was stopped.

*Models.* ``mf``: matrix factorisation with biases (the FM of users and movies) on squared error; the stars of the
ratings could not be had, so the target is the like, 0 or 1, and the score its MSE. ``deepfm``: eight fields, AUC.

*Parts.* 70 % weights, 10 % alpha (DNIS' own validation batches), 10 % validation (best epoch, tuning), 10 % test
(looked at once). Arms that need no alpha part train on it too, from the start, so that they have 80 %; DNIS trains on
it only after its search, when it no longer has to be held out.

*Budget.* One sample forward and backward is one unit, on a weight or on an alpha batch alike. Every arm may spend
``epochs`` x 80 % of the data, its warm start and search included; an arm that stops early spends less. Tuning is on
top, for every arm, and so is the look at the validation part after each epoch.

*Share.* Kept numbers of the embedding tables; the first-order weights (one number a row) are the same in all arms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

import tamis
from benchmarks.ctr.arms import Arms, Outcome, Plan, Setting
from benchmarks.ctr.data import default_data
from benchmarks.ctr.dnis_arms import DNISArms
from benchmarks.dimreg_real import write
from benchmarks.tables import T_95

RESULTS = Path(__file__).parent / "results"
TUNING_SEED = 100
TUNED_SHARE = 0.125  # where what serves all shares is tuned
OURS = ("tamis.pruners.DNIS, columns of blocks", "DNIS, columns of blocks")  # compared with every arm
TUNED_ARM = "DNIS ours, columns of blocks"  # whose rates all arms with a search use


PLANS = {
    "mf": Plan(12, 3, 1, 32, (4, 2, 8, 16), (1e-3, 2e-3), (0.01, 0.02, 0.03, 0.045)),
    "deepfm": Plan(6, 2, 1, 32, (4, 2, 8), (1e-3, 2e-3), (0.0, 3e-3, 1e-2), 250_000),
}
GRIDS = {"warm": ([0.25, "full"], [0.5, "full"], [0.25, "search"]), "blocks": (5, 10, 20), "power": (0.2, 0.5, 0.8)}


class Tuning:
    """Fills ``setting.tuned`` by validation score on the tuning seed; ``seen``: name -> value -> score."""

    def __init__(self, setting: Setting, seen: dict[str, dict[str, float]], save: Callable[[], None]) -> None:
        self.setting, self.seen, self.save = setting, seen, save

    def score(self, name: str, value: Any, run: Callable[[Arms], Outcome]) -> float:
        """Validation score with the setting ``name`` at ``value``; every value is tried once, with fresh arms."""
        scores = self.seen.setdefault(name, {})
        if str(value) not in scores:
            self.setting.tuned[name] = value
            done = run(Arms(self.setting)).run
            scores[str(value)] = round(done.validation[done.best], 5)
            print(f"tuning {name} {value}: {scores[str(value)]}", flush=True)
            self.save()
        return scores[str(value)]

    def choose(self, name: str, values: Sequence[Any], run: Callable[[Arms], Outcome]) -> None:
        """The best of ``values`` for the setting ``name``."""
        self.setting.tuned[name] = max(values, key=lambda value: self.score(name, value, run))

    def rates(self, arm: str, decays: Sequence[float], run: Callable[[Arms], Outcome]) -> None:
        """The row decay at the last learning rate, then the rate; a decay that is best at an end of its grid is
        tried once more beyond it.
        """
        name, (*others, lr) = f"rates, {arm}", self.setting.plan.lrs
        decays, beyond = [float(f"{decay:.2g}") for decay in decays], {min(decays): 0.5, max(decays): 1.5}
        best = max(decays, key=lambda decay: self.score(name, [lr, decay], run))
        if best and best in beyond:
            more = float(f"{best * beyond[best]:.2g}")
            best = max((best, more), key=lambda decay: self.score(name, [lr, decay], run))
        self.choose(name, [[rate, best] for rate in (lr, *others)], run)

    def all(self, shares: Sequence[str] | None) -> None:
        """What all use, then each arm's own at ``shares`` (None: all of the plan's)."""
        plan, tuned, share = self.setting.plan, self.setting.tuned, TUNED_SHARE
        widths = [width for width in plan.widths if not shares or f"{width / plan.dim:g}" in shares]
        self.rates("full", plan.decays, lambda arms: arms.unpruned())
        for width in widths:
            self.rates(f"width {width}", plan.decays, lambda arms, width=width: arms.uniform(width))
        tuned["rates, search"] = [plan.lrs[-1], tuned["rates, full"][1]]  # the larger rate: the warm start is short
        kinds = ("magnitude values", "magnitude columns", "low rank", "frequency rule")
        tuned |= {"blocks, magnitude": 10, "blocks, frequency rule": 10}
        tuned |= {f"rates, {kind}, {share:g}": tuned["rates, full"] for kind in kinds}
        self.choose("warm, magnitude values", GRIDS["warm"], lambda arms: arms.magnitude(share))
        self.choose("warm, magnitude columns", GRIDS["warm"], lambda arms: arms.magnitude_columns(share))
        self.choose("warm, low rank", GRIDS["warm"], lambda arms: arms.low_rank(share))
        self.choose("blocks, magnitude", GRIDS["blocks"], lambda arms: arms.magnitude_columns(share))
        self.choose("power, frequency rule", GRIDS["power"], lambda arms: arms.frequency(share))
        self.choose("blocks, frequency rule", GRIDS["blocks"], lambda arms: arms.frequency(share))
        decays = [factor * tuned["rates, full"][1] for factor in (1 / 3, 2 / 3, 1)]
        for width in widths:
            own = width / plan.dim
            self.rates(f"magnitude values, {own:g}", decays, lambda arms, own=own: arms.magnitude(own))
            self.rates(f"magnitude columns, {own:g}", decays, lambda arms, own=own: arms.magnitude_columns(own))
            self.rates(f"low rank, {own:g}", decays, lambda arms, own=own: arms.low_rank(own))
            self.rates(f"DNIS, {own:g}", decays, lambda arms, own=own: DNISArms(arms).methods(own)[TUNED_ARM]())
            self.rates(f"frequency rule, {own:g}", decays, lambda arms, own=own: arms.frequency(own))


def summary(runs: dict[str, dict[str, dict[str, dict[str, Any]]]], score: str) -> dict[str, dict[str, Any]]:
    """Share -> arm -> means over the seeds, and DNIS minus it over the shared seeds with a 95 % interval."""
    figures: dict[str, dict[str, Any]] = {}
    for share, arms in runs.items():
        ours = [name for name in OURS if name in arms]
        for name, entries in arms.items():
            if not entries:
                continue
            row: dict[str, Any] = {
                "seeds": len(entries),
                "share": mean(entry["share"] for entry in entries.values()),
                "kB": mean(entry["bytes"] for entry in entries.values()) / 1000,
                "samples / 1e6": mean(entry["samples"] for entry in entries.values()) / 1e6,
                f"test {score}": mean(entry["test"] for entry in entries.values()),
            }
            for our in ours:
                shared = sorted(entries.keys() & arms[our].keys())
                gaps = [arms[our][seed]["test"] - entries[seed]["test"] for seed in shared]
                if our != name and len(gaps) in T_95:
                    half = T_95[len(gaps)] * stdev(gaps) / len(gaps) ** 0.5
                    row[f"{our} minus it"] = [mean(gaps) - half, mean(gaps) + half]
            figures.setdefault(f"share {share}", {})[name] = row
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mf", choices=list(PLANS))
    parser.add_argument("--tune", action="store_true", help="first, once")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="added to those in the file")
    parser.add_argument("--only", nargs="+", default=[""], help="only the arms whose name starts so")
    parser.add_argument("--shares", nargs="*", help="only these, as the file names them: all, 0.125")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one seed, short, 40,000 rows, nothing written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan, started = PLANS[args.model], time.time()
    if args.quick:
        plan = replace(plan, epochs=4, warm=1, search=1, widths=(4,), lrs=(1e-2,), decays=(0.01,), rows=40_000)
    target = args.out / f"dnis_movielens_{args.model}.json"
    result: dict[str, Any] = json.loads(target.read_text()) if target.is_file() and not args.quick else {}

    def save() -> None:
        if not args.quick:
            result["figures"] = summary(result["runs"], "MSE" if args.model == "mf" else "AUC")
            write(target, result)

    if args.tune or args.quick:
        first = Setting(args.model, plan, args.data, TUNING_SEED, result.get("tuned", {}))
        result = {
            "benchmark": "dnis_movielens",
            "data": {"name": "movielens1m", "train_rows": len(first.data.train[0]), "table_rows": first.data.rows},
            "model": args.model,
            "seeds": result.get("seeds", []),
            "budget": {"samples": plan.epochs * len(first.data.train[0]), "batch": first.batch, "dim": plan.dim},
            "plan": vars(plan),
            "versions": {"tamis": tamis.__version__, "torch": torch.__version__, "numpy": np.__version__},
            "tuned": first.tuned,
            "tuning": result.get("tuning", {}),
            "figures": {},
            "runs": result.get("runs", {}),
        }
        Tuning(first, result["tuning"], save).all(args.shares)
        save()
    for seed in [0] if args.quick else args.seeds:
        setting = Setting(args.model, plan, args.data, seed, result["tuned"])
        arms = Arms(setting)
        searching, methods = DNISArms(arms), arms.methods()
        for share in methods:
            methods[share] |= searching.methods(float(share)) if share != "all" else {}
        for share, runs in methods.items():
            if args.shares and share not in args.shares:
                continue
            for name, run in runs.items():
                entries = result["runs"].setdefault(share, {}).setdefault(name, {})
                if str(seed) in entries or not name.startswith(tuple(args.only)):
                    continue
                entry = entries[str(seed)] = run().entry(setting)
                result["seeds"] = sorted({*result["seeds"], seed})
                print(
                    f"{time.time() - started:6.0f} s  seed {seed}  {share:>7}  {name:32} {entry['share']:7.2%}"
                    f"  {entry['bytes'] / 1000:8.0f} kB  {entry['samples'] / 1e6:5.2f} M  {entry['test']:.5f}",
                    flush=True,
                )
                save()


if __name__ == "__main__":
    main()
