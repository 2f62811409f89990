"""Every pruner on the same clicks at the same bytes and the same number of trained samples.

``python -m benchmarks.league --seeds 0 1`` adds to ``results/league_SET_MODEL_DIM.json`` as it goes, and goes on where
it was stopped. Every sample that goes through the model forward and backward counts one, validation batches that teach
gates too, and a forward alone a third: a method that searches first and then trains anew has only the rest of the
epochs. Settings are the defaults, but for those in ``CHANGES``; nothing was tuned on the test part, and nothing was
tuned for one method that was not for the others. Decays of the rows are those that ``dimreg_real`` tuned.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tamis
from benchmarks.ctr import rivals
from benchmarks.ctr.data import default_data, load
from benchmarks.ctr.training import Run, auc, predict
from benchmarks.dimreg_real import PLANS, RESULTS, write
from tamis import pruners

# What a training of a thousand steps needs other than the defaults, which are the papers' (for 10,000 steps and more).
CHANGES: dict[str, dict[str, Any]] = {
    "AutoDim": {"lr": 1e-2},
    "AutoField": {"lr": 1e-2},
    "PEP": {"lr": 0.05},
    "OptEmbed": {"lr": 1e-3},
    "SSEDS": {"batches": 10},
}
METHODS = ("L1Gates", "MDE", "PEP", "SSEDS", "HAM", "DeepLight", "AutoDim", "OptEmbed", "LPFS", "AutoField", "OptFS")
AGAIN = ("SSEDS", "PEP", "AutoDim", "AutoField", "OptFS")  # also with one training, which is ours
SEARCH = 1 / 3  # of the samples, for a method that then trains anew


class Along:
    """Goes along in `benchmarks.ctr.training.train`: the pruner's penalty, its steps, its validation batches."""

    def __init__(
        self, pruner: Any, model: nn.Module, part: tuple[Tensor, Tensor] | None, batch: int, seed: int
    ) -> None:
        self.pruner, self.model, self.part, self.batch, self.spent = pruner, model, part, batch, 0.0
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = self.endless() if part is not None else None

    def endless(self) -> Iterator[Tensor]:
        assert self.part is not None
        while True:
            order = torch.randperm(len(self.part[0]), generator=self.generator)
            yield from order[: len(order) // self.batch * self.batch].view(-1, self.batch)

    def penalty(self) -> Tensor:
        value: Tensor = self.pruner.penalty()
        return value

    def step(self) -> None:
        if self.part is None or self.batches is None:
            self.pruner.step()
            return
        chosen, (ids, labels) = next(self.batches), self.part

        def loss() -> Tensor:
            self.spent += len(chosen) * (1.0 if torch.is_grad_enabled() else 1 / 3)
            value: Tensor = self.model(ids[chosen], labels[chosen])["loss"]
            return value

        self.pruner.step(validation_loss=loss)


class League:
    """One data set, one seed."""

    def __init__(self, name: str, folder: Path, model: str, dim: int, seed: int, epochs: int | None) -> None:
        plan = PLANS[name]
        self.data = load(name, folder, seed=seed, rows=plan.rows)
        self.setting = rivals.Setting(self.data, model, dim, epochs or plan.epochs, plan.lr, sparse=False)
        self.setting.decays = {"full": 1e-3, "narrow": 3e-3, "DimReg": 3e-3}
        self.seed, self.fields = seed, {field: f"embeddings.{field}" for field in self.data.sizes}

    def held(self, validates: bool) -> tuple[rivals.Setting, tuple[Tensor, Tensor] | None]:
        """The setting, without an eighth of its training rows if the pruner learns from validation batches."""
        if not validates:
            return self.setting, None
        ids, labels = self.data.train
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(self.seed))
        part, rest = order[: len(ids) // 8], order[len(ids) // 8 :]
        setting = copy.copy(self.setting)
        setting.data = replace(self.data, train=(ids[rest], labels[rest]))
        return setting, (ids[part], labels[part])

    def pruner(self, name: str, model: nn.Module, size: float, steps: int, goes_on: bool) -> Any:
        changes = CHANGES.get(name, {}) | ({"decide_by": SEARCH} if goes_on else {})
        config = getattr(pruners, f"{name}Config")(**changes)
        return getattr(pruners, name)(model, size=size, tables=self.fields, config=config, total_steps=steps)

    def prune(self, name: str, size: float, goes_on: bool = False) -> tuple[Run, float, float]:
        """Train with the method, cut, train again if it asks for it: the last run, its byte share, samples in all.

        ``goes_on``: decide after `SEARCH` of the training and go on with the weights, in place of training anew.
        """
        total = self.setting.epochs * len(self.data.train[0])
        kind = getattr(pruners, name)
        setting, part = self.held(bool(kind.validates))
        rows, model = len(setting.data.train[0]), self.setting.build(self.seed)
        start = copy.deepcopy(model)
        again = (
            not goes_on
            and getattr(kind, "again", "no") != "no"
            and getattr(kind, "config_class", object)().decide_by == 1.0
        )
        cost = 1 + ((SEARCH if goes_on else self.learns(name)) if kind.validates else 0.0)  # samples per trained sample
        epochs = max(1, round((SEARCH if again else 1.0) * total / rows / cost - 0.49))
        steps = epochs * (rows // setting.batch)
        pruner = self.pruner(name, model, size, steps, goes_on)
        along = Along(pruner, model, part, setting.batch, self.seed)
        decided = getattr(pruner.config, "decide_by", 0.0) + getattr(pruner.config, "closing", 0.0)
        first = 0 if name == "MDE" else min(epochs, int(np.ceil(decided * epochs))) - 1
        run = setting.train(
            model, self.seed, epochs, kind="DimReg", pruner=along, patience_from=first, patience=epochs if again else 3
        )
        spent = run.samples + along.spent
        plan = pruner.prune(force=name == "DimReg")
        if again:
            small = pruner.restart(start if pruner.retrain == "rewind" else self.setting.build(self.seed + 1000))
            seconds = run.seconds
            run = self.setting.train(small, self.seed + 1000, max(1, int((total - spent) / len(self.data.train[0]))))
            run.seconds, model, spent = run.seconds + seconds, small, spent + run.samples
        run.test = auc(predict(model, self.data.test[0]), self.data.test[1].numpy())
        return run, plan.byte_share, spent

    @staticmethod
    def learns(name: str) -> float:
        """Share of the steps at which a validation batch is trained on."""
        config = getattr(pruners, f"{name}Config")()
        if name == "OptEmbed":
            return float(config.search * config.population / 3)
        return float(config.decide_by - config.warm_up)

    def uniform(self, width: int) -> tuple[Run, float, float]:
        run = rivals.uniform(self.setting, self.seed, width)
        return run, width / self.setting.dim, run.samples

    def arms(self, size: float) -> dict[str, Callable[[], tuple[Run, float, float]]]:
        """Name -> what trains it."""
        dim = self.setting.dim
        arms: dict[str, Callable[[], tuple[Run, float, float]]] = {"uniform": lambda: self.uniform(round(size * dim))}
        arms |= {name: (lambda name=name: self.prune(name, size)) for name in (*METHODS, "DNIS", "DimReg")}
        return arms | {f"{name}, goes on": (lambda name=name: self.prune(name, size, True)) for name in AGAIN}


def summary(runs: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Size -> method -> means over its seeds, and over the shared seeds its test AUC minus the uniform width's."""
    table: dict[str, dict[str, Any]] = {}
    for key, seeds in runs.items():
        name, _, size = key.rpartition(" ")
        uniform = runs.get(f"uniform {size}", {})
        shared = [seed for seed in seeds if seed in uniform]
        gaps = [seeds[seed]["test"] - uniform[seed]["test"] for seed in shared]
        table.setdefault(size if name else "all", {})[name or key] = {
            "seeds": len(seeds),
            "share of bytes": mean(run["share"] for run in seeds.values()),
            "test AUC": mean(run["test"] for run in seeds.values()),
            "minus uniform": mean(gaps) if gaps and name != "uniform" else None,
            "epochs": mean(run["epochs"] for run in seeds.values()),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="frappe", choices=list(PLANS))
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--epochs", type=int, help="of every method, in all; by default those of dimreg_real")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.125, 0.25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="only these arms")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    target, started = args.out / f"league_{args.set}_{args.model}_{args.dim}.json", time.time()
    result: dict[str, Any] = (
        json.loads(target.read_text())
        if target.is_file()
        else {
            "benchmark": "league",
            "set": args.set,
            "model": args.model,
            "dim": args.dim,
            "epochs": args.epochs or PLANS[args.set].epochs,
            "changes": CHANGES,
            "versions": {"tamis": tamis.__version__, "torch": torch.__version__},
            "seeds": [],
            "figures": {},
            "runs": {},
        }
    )
    for seed in args.seeds:
        league = League(args.set, args.data, args.model, args.dim, seed, result["epochs"])
        whole = {"full": lambda league=league: league.uniform(league.setting.dim)}
        for size in args.sizes:
            for name, run in (whole | league.arms(size)).items():
                key = name if name == "full" else f"{name} {size:g}"
                if str(seed) in result["runs"].get(key, {}) or (args.only and name not in args.only):
                    continue
                done, share, samples = run()
                figures = {
                    "test": round(done.test, 5),
                    "validation": round(done.validation[done.best], 5),
                    "share": round(share, 5),
                    "epochs": round(samples / len(league.data.train[0]), 2),
                    "seconds": round(done.seconds, 1),
                }
                result["runs"].setdefault(key, {})[str(seed)] = figures
                result["figures"], result["seeds"] = summary(result["runs"]), sorted({*result["seeds"], seed})
                print(
                    f"{time.time() - started:6.0f} s  seed {seed}  {key:18} {share:7.2%}  {done.test:.4f}", flush=True
                )
                write(target, result)


if __name__ == "__main__":
    main()
