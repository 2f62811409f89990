"""Test AUC against bytes: full, narrow and DimReg tables, each as float32, int8, int4 and int2, on real clicks.

``python -m benchmarks.quantize_ctr --set frappe --seeds 0 1 2`` trains DeepFM (d = 32) once per arm and seed with the
settings of `benchmarks.dimreg_real` and the decays that it tuned, and stores the tables of the trained model in each
type: what is scored is the quantised lookup itself. Bytes are those of the embedding tables as they are stored, scales
and biases included; the first-order weights (one number a row) stay float32 in every arm and are not counted. With
``--weights FOLDER`` trained models are kept there, and those that are there are not trained again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import tamis
from benchmarks.ctr import rivals
from benchmarks.ctr.data import CTRData, default_data, load
from benchmarks.ctr.training import Run, auc, predict
from benchmarks.dimreg_real import PLANS, RESULTS, write
from benchmarks.tables import T_95
from tamis import NoEffectWarning
from tamis.pruners import DimReg, DimRegConfig, load_pruned, quantize_embeddings

CLAIM = (
    "Tables rounded row by row after training, alone, in narrow tables and after DimReg: test AUC against the bytes "
    "that are left of the full float32 tables, scales and biases included."
)
DIM = 32
TYPES = ("float32", "int8", "int4", "int2")
SCHEDULE = DimRegConfig(warm_up=0.3, decide_by=0.33, closing=0.01)
SIZES = {"frappe": (0.5, 0.25, 0.125), "movielens1m_crossed": (0.125, 0.03125, 0.015625)}  # of DimReg, in bytes
WIDTHS = {"frappe": (8, 4), "movielens1m_crossed": (4, 1)}


def train_dimreg(setting: rivals.Setting, seed: int, size: float) -> tuple[nn.Module, Run]:
    """Trained with gates and cut, at its best epoch of those in which the gates were closed."""
    model = setting.build(seed)
    pruner = DimReg(model, size=size, config=SCHEDULE, total_steps=setting.steps)
    closed = int(np.ceil((SCHEDULE.decide_by + SCHEDULE.closing) * setting.epochs)) - 1
    run = setting.train(model, seed, kind="DimReg", pruner=pruner, patience_from=closed)
    pruner.prune()
    return model, run


def train_narrow(setting: rivals.Setting, seed: int, width: int) -> tuple[nn.Module, Run]:
    model = setting.build(seed, width)
    return model, setting.train(model, seed, kind="full" if width == setting.dim else "narrow")


def trained(setting: rivals.Setting, seed: int, arm: str, weights: Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """The model of ``arm`` (``full``, ``uniform 4``, ``DimReg 0.25``), trained or read, and facts on its training."""
    word, _, number = arm.partition(" ")
    width = setting.dim if word == "full" else int(number) if word == "uniform" else 0
    file = weights / f"{setting.data.name}, {seed}, {arm}.safetensors" if weights else None
    if file and file.is_file():
        facts = json.loads(file.with_suffix(".json").read_text())
        if not width:
            return load_pruned(setting.build(seed), file), facts
        model = setting.build(seed, width)
        model.load_state_dict(load_file(file))
        return model, facts
    model, run = train_narrow(setting, seed, width) if width else train_dimreg(setting, seed, float(number))
    facts = {"validation": run.validation[run.best], "best_epoch": run.best, "seconds": round(run.seconds, 1)}
    if file:
        save_file(model.state_dict(), file)
        file.with_suffix(".json").write_text(json.dumps(facts))
    return model, facts


def score_types(model: nn.Module, data: CTRData, dim: int) -> dict[str, dict[str, float]]:
    """Per type that its tables get smaller by: test AUC by the quantised lookup, and the share of the full bytes."""
    found = {}
    for stored in TYPES:
        small = copy.deepcopy(model)
        share = sum(table_bytes(table) for table in small.embeddings.values()) / (4 * dim * data.rows)
        if stored != "float32":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoEffectWarning)
                plan = quantize_embeddings(small, stored)
            if not plan.stored:
                continue
            paths = [path for path in plan.tables if path.startswith("embeddings.")]
            share = sum(plan.bytes_after(path) for path in paths) / (4 * dim * data.rows)
        test = auc(predict(small.requires_grad_(False), data.test[0]), data.test[1].numpy())
        found[stored] = {"test": test, "share": share}
    return found


def table_bytes(table: nn.Module) -> int:
    return table.weight.numel() * table.weight.element_size()


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """``runs``: arm -> seed -> type -> figures. Per arm and type: bytes, mean AUC, and the gap to the full float32."""
    rows = {}
    for arm, seeds in runs.items():
        for stored in TYPES:
            own = {seed: run[stored] for seed, run in seeds.items() if stored in run}
            if not own:
                continue
            shared = [seed for seed in own if seed in runs["full"]]
            gaps = [own[seed]["test"] - runs["full"][seed]["float32"]["test"] for seed in shared]
            row = {
                "seeds": len(own),
                "share of bytes": mean(run["share"] for run in own.values()),
                "test AUC": mean(run["test"] for run in own.values()),
                "minus full float32": mean(gaps),
            }
            if len(gaps) in T_95 and any(gaps):
                row["95 % +-"] = T_95[len(gaps)] * stdev(gaps) / len(gaps) ** 0.5
            rows[f"{arm}, {stored}"] = row
    return dict(sorted(rows.items(), key=lambda item: -item[1]["share of bytes"]))


def arms_of(name: str) -> list[str]:
    return ["full", *(f"DimReg {size:g}" for size in SIZES[name]), *(f"uniform {width}" for width in WIDTHS[name])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="frappe", choices=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", help="only these, as 'DimReg 0.25'")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan, started = PLANS[args.set], time.time()
    decays = json.loads((RESULTS / f"dimreg_{args.set}_deepfm_32.json").read_text())["tuned"]["decays"]
    target = args.out / f"quantize_{args.set}_deepfm_32.json"
    runs: dict[str, Any] = json.loads(target.read_text())["runs"] if target.is_file() else {}
    for seed in args.seeds:
        data = load(args.set, args.data, seed=seed, rows=plan.rows)
        setting = rivals.Setting(data, "deepfm", DIM, plan.epochs, plan.lr, plan.sparse)
        setting.decays |= decays
        for arm in args.arms or arms_of(args.set):
            model, facts = trained(setting, seed, arm, args.weights)
            run = {**score_types(model, data, DIM), "training": facts}
            runs.setdefault(arm, {})[str(seed)] = run
            tests = {stored: round(run[stored]["test"], 4) for stored in TYPES if stored in run}
            print(f"{time.time() - started:6.0f} s  seed {seed}  {arm:16} {tests}", flush=True)
            result = {
                "benchmark": "quantize_ctr",
                "claim": CLAIM,
                "data": {"name": args.set, "train_rows": len(data.train[0]), "table_rows": data.rows},
                "model": "deepfm",
                "dim": DIM,
                "seeds": sorted(int(seed) for seed in runs["full"]),
                "budget": {"epochs": plan.epochs, "batch": setting.batch, "lr": plan.lr, "decays": decays},
                "dimreg": {name: getattr(SCHEDULE, name) for name in ("warm_up", "decide_by", "closing")},
                "versions": {"tamis": tamis.__version__, "torch": torch.__version__, "numpy": np.__version__},
                "figures": summary(runs),
                "runs": runs,
            }
            write(target, result)


if __name__ == "__main__":
    main()
