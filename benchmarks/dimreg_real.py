"""DimReg against the full model and its rivals at equal embedding parameters and equal epochs, on real clicks.

``python -m benchmarks.dimreg_real --set frappe --tune`` chooses decays and the rivals' strengths on the validation part
of seed 100, which is not reported; then ``--seeds 0`` and so on, one or more at a time, add their runs to
``results/dimreg_SET_MODEL_DIM.json`` as they go, and go on where they were stopped. The seed sets the parts of the
data, the start and the order of the batches. Every run keeps its best epoch by validation AUC and scores the test
part once. Searching counts: a method that trains at full width first and then anew has only the rest of the epochs.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tamis
from benchmarks.ctr import rivals
from benchmarks.ctr.data import default_data, load
from benchmarks.ctr.training import Run, auc, predict
from tamis.pruners import DimReg, DimRegConfig, ThesisConfig

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """How long a set is trained, and what is compared there.

    Attributes:
        epochs, lr: of every method.
        sparse: SparseAdam on the tables; else dense Adam.
        share: of the parameters: all methods at this one.
        more: DimReg alone at these.
        widths: the grid of uniform widths.
        decays: the grid of row decays.
        rows: at most so many training rows.
    """

    epochs: int
    lr: float
    sparse: bool
    share: float
    more: tuple[float, ...]
    widths: tuple[int, ...]
    decays: tuple[float, ...]
    rows: int | None = None


PLANS = {
    "frappe": Plan(12, 5e-3, False, 0.125, (0.1875,), (4, 6), (0.0, 1e-3, 3e-3)),
    "movielens1m": Plan(3, 1e-3, True, 0.125, (), (1, 2, 4, 8), (0.0, 3e-3), 250_000),
    "movielens1m_crossed": Plan(3, 1e-3, True, 0.03125, (0.125,), (1, 4), (0.0, 3e-3), 200_000),
}
TUNING_SEED = 100
EARLY = DimRegConfig(warm_up=0.05, decide_by=0.4, closing=0.05)  # the schedule of release 0.1
L1_STRENGTHS = (1e-5, 1e-4, 1e-3)
POWERS = {
    "MDE": (0.3, 0.6),
    "magnitude": (0.0, 0.5, 1.0),
    "one-shot": (0.0, 0.5, 1.0),
    "L1": (0.0, 0.5, 1.0),
}  # of rows


def dimreg(
    setting: rivals.Setting, seed: int, budget: int | None, config: DimRegConfig | ThesisConfig
) -> tuple[Run, dict[str, int], dict[str, torch.Tensor]]:
    """Train with gates, cut, score the cut model: the run, the columns' number and the columns, both per field.

    A `ThesisConfig` has no budget: it is cut by force, at the end of the training, at whatever share it reaches.
    """
    model = setting.build(seed)
    mean, bytes_ = isinstance(config, ThesisConfig), None if budget is None else 4 * budget
    pruner = DimReg(model, budget_bytes=bytes_, config=config, total_steps=setting.steps)
    settled = 1.0 if isinstance(config, ThesisConfig) else config.decide_by + config.closing
    first = int(np.ceil(settled * setting.epochs)) - 1  # the epoch after which the gates are closed
    run = setting.train(model, seed, kind="DimReg", pruner=pruner, patience_from=first)
    open_ = (pruner.gates >= 0.5).split([table.width for table in pruner.tables])
    columns = {field: part.nonzero()[:, 0] for field, part in zip(setting.data.sizes, open_, strict=True)}
    pruner.prune(force=mean)
    run.test = auc(predict(model, setting.data.test[0]), setting.data.test[1].numpy())
    return run, {field: len(kept) for field, kept in columns.items()}, columns


def entry(setting: rivals.Setting, run: Run, kept: dict[str, int]) -> dict[str, Any]:
    """One run as JSON; ``share``: numbers in the embedding tables, of the full model's; ``kept``: per field."""
    return {
        "test": run.test,
        "validation": [round(score, 5) for score in run.validation],
        "best_epoch": run.best,
        "share": sum(kept[field] * rows for field, rows in setting.data.sizes.items()) / setting.parameters,
        "kept": list(kept.values()),
        "seconds": round(run.seconds, 1),
    }


class Comparison:
    """All methods on one seed; ``tuned``: what `tune` found."""

    def __init__(self, setting: rivals.Setting, seed: int, plan: Plan, tuned: dict[str, Any]) -> None:
        self.setting, self.seed, self.plan, self.tuned = setting, seed, plan, tuned
        self.budget = int(plan.share * setting.parameters)

    @cached_property
    def ours(self) -> tuple[Run, dict[str, int], dict[str, torch.Tensor]]:
        """DimReg at the share of all; the rows that need its columns train it again if a stop has lost them."""
        return dimreg(self.setting, self.seed, self.budget, DimRegConfig())

    def uniform(self, width: int) -> tuple[Run, dict[str, int]]:
        return rivals.uniform(self.setting, self.seed, width), dict.fromkeys(self.setting.data.sizes, width)

    def config(self, share: float | None, config: DimRegConfig | ThesisConfig) -> tuple[Run, dict[str, int]]:
        budget = None if share is None else int(share * self.setting.parameters)
        return dimreg(self.setting, self.seed, budget, config)[:2]

    def random(self) -> tuple[Run, dict[str, int]]:
        return rivals.random_columns(self.setting, self.seed, self.ours[1]), self.ours[1]

    def retrained(self) -> tuple[Run, dict[str, int]]:
        return rivals.same_columns(self.setting, self.seed, self.ours[2]), self.ours[1]

    def methods(self) -> dict[str, Callable[[], tuple[Run, dict[str, int]]]]:
        """Name -> what trains it; the most telling first, for a run that is stopped."""
        s, share = self.setting, self.plan.share
        given, power = (s, self.seed, self.budget), self.tuned["powers of rows"]
        search, l1 = max(1, round(s.epochs / 3)), self.tuned["L1 strength"]
        rows: dict[str, Callable[[], tuple[Run, dict[str, int]]]] = {"full": lambda: self.uniform(s.dim)}
        rows |= {f"uniform {w}": (lambda w=w: self.uniform(w)) for w in self.plan.widths}
        rows[f"DimReg {share:g}"] = lambda: self.ours[:2]
        rows |= {f"DimReg {more:g}": (lambda more=more: self.config(more, DimRegConfig())) for more in self.plan.more}
        rows |= {
            f"DimReg, schedule of 0.1 {part:g}": (lambda part=part: self.config(part, EARLY))
            for part in (share, *self.plan.more)
        }
        rows |= {
            f"random columns, DimReg's counts {share:g}": self.random,
            f"DimReg retrained, twice the epochs {share:g}": self.retrained,
            f"MDE {share:g}": lambda: rivals.mde(*given, power["MDE"]),
            f"L1 gates {share:g}": lambda: rivals.l1_gates(*given, search, power["L1"], l1),
            f"magnitude, retrained {share:g}": lambda: rivals.magnitude(*given, search, power["magnitude"]),
            f"one-shot saliency, retrained {share:g}": lambda: rivals.one_shot(*given, search, power["one-shot"]),
            f"DimReg without pairs {share:g}": lambda: self.config(share, DimRegConfig(pair_share=0.0)),
            "thesis' form, cut by force, own share": lambda: self.config(None, DimRegConfig.paper()),
        }
        return rows


def tune(setting: rivals.Setting, plan: Plan, seen: dict[str, Any], save: Callable[[], None]) -> dict[str, Any]:
    """Row decay of the full, the narrow and the gated models, the rivals' powers of rows, L1's strength.

    All by validation AUC. A decay or strength that is best at the end of its grid is tried three times larger too.
    ``seen``: name -> value -> score, what is known already; ``save`` is called when it has grown.
    """
    seed, budget = TUNING_SEED, int(plan.share * setting.parameters)
    width = max(1, round(plan.share * setting.dim))

    def best(name: str, values: tuple[float, ...], run: Callable[[float], Run]) -> float:
        scores, queue, top = seen.setdefault(name, {}), list(values), values[0]
        while queue:
            value = queue.pop(0)
            if str(value) not in scores:
                done = run(value)
                scores[str(value)] = round(done.validation[done.best], 5)
                print(f"tuning {name} {value}: {scores[str(value)]}", flush=True)
                save()
            top = max(top, value, key=lambda each: scores[str(each)])
            if not queue and top == value and "power" not in name:
                queue = [float(f"{3 * value:.0e}")]
        return top

    def with_decay(kind: str, decay: float) -> Run:
        setting.decays[kind] = decay
        if kind == "DimReg":
            return dimreg(setting, seed, budget, DimRegConfig())[0]
        return rivals.uniform(setting, seed, setting.dim if kind == "full" else width)

    for kind in setting.decays:
        setting.decays[kind] = best(f"decay, {kind}", plan.decays, lambda value, kind=kind: with_decay(kind, value))
    given, search = (setting, seed, budget), max(1, round(setting.epochs / 3))
    trained: dict[str, Callable[[float], Run]] = {
        "MDE": lambda power: rivals.mde(*given, power)[0],
        "magnitude": lambda power: rivals.magnitude(*given, search, power)[0],
        "one-shot": lambda power: rivals.one_shot(*given, search, power)[0],
        "L1": lambda power: rivals.l1_gates(*given, search, power, L1_STRENGTHS[1])[0],
    }
    powers = {name: best(f"power, {name}", POWERS[name], run) for name, run in trained.items()}
    strength = best("L1 strength", L1_STRENGTHS, lambda v: rivals.l1_gates(*given, search, powers["L1"], v)[0])
    return {"decays": dict(setting.decays), "powers of rows": powers, "L1 strength": strength, "validation": seen}


def write(target: Path, result: dict[str, Any]) -> None:
    """As JSON, lists on one line."""
    text = json.dumps(result, indent=1)
    target.write_text(re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="frappe", choices=list(PLANS))
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--tune", action="store_true", help="first, once")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="added to those in the file")
    parser.add_argument("--only", nargs="+", help="only the methods whose name starts so")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one seed, three epochs, 20,000 rows, nothing written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan, started = PLANS[args.set], time.time()
    if args.quick:
        plan = Plan(**(vars(plan) | {"epochs": 3, "rows": 20_000}))

    def setting(seed: int) -> rivals.Setting:
        data = load(args.set, args.data, seed=seed, rows=plan.rows)
        return rivals.Setting(data, args.model, args.dim, plan.epochs, plan.lr, plan.sparse)

    target = args.out / f"dimreg_{args.set}_{args.model}_{args.dim}.json"
    result: dict[str, Any] = json.loads(target.read_text()) if target.is_file() and not args.quick else {}

    def save() -> None:
        if not args.quick:
            write(target, result)

    if args.tune or args.quick:
        first = setting(TUNING_SEED)
        seen = result.get("tuned", {}).get("validation", {})
        result = {
            "benchmark": "dimreg_real",
            "data": {"name": args.set, "train_rows": len(first.data.train[0]), "table_rows": first.data.rows},
            "model": args.model,
            "dim": args.dim,
            "budget": {"epochs": plan.epochs, "batch": first.batch, "lr": plan.lr, "steps": first.steps},
            "versions": {"tamis": tamis.__version__, "torch": torch.__version__, "numpy": np.__version__},
            "fields": list(first.data.sizes),
            "tuned": {"validation": seen},
            "seeds": [],
            "figures": {},
        }
        result["tuned"] = tune(first, plan, seen, save)
        save()
    for seed in [0] if args.quick else args.seeds:
        own = setting(seed)
        own.decays |= result["tuned"]["decays"]
        for name, run in Comparison(own, seed, plan, result["tuned"]).methods().items():
            if str(seed) in result["figures"].get(name, {}) or not name.startswith(tuple(args.only or [""])):
                continue
            figures = entry(own, *run())
            result["figures"].setdefault(name, {})[str(seed)] = figures
            result["seeds"] = sorted({*result["seeds"], seed})
            spent = time.time() - started
            print(f"{spent:6.0f} s  seed {seed}  {name:45} {figures['share']:7.2%}  {figures['test']:.4f}", flush=True)
            save()


if __name__ == "__main__":
    main()
