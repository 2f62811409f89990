"""Test AUC against bytes: full, narrow and DimReg tables, each as float32, int8, int4 and int2, on real clicks.

``python -m benchmarks.quantize_ctr --set frappe --seeds 0 1 2`` trains DeepFM (d = 32) once per arm and seed with the
settings of `benchmarks.dimreg_real` and the decays that it tuned, and stores the tables of the trained model in each
type: what is scored is the quantised lookup itself. Bytes are those of the embedding tables as they are stored, scales
and biases included; the first-order weights (one number a row) stay float32 in every arm and are not counted. With
``--weights FOLDER`` trained models are kept there, and those that are there are not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.ctr import rivals
from benchmarks.ctr.data import default_data, load
from benchmarks.ctr.training import Run, auc, predict
from benchmarks.dimreg_real import PLANS, RESULTS
from tamis.pruners import DimReg, DimRegConfig, load_pruned

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


def arms_of(name: str) -> list[str]:
    return ["full", *(f"DimReg {size:g}" for size in SIZES[name]), *(f"uniform {width}" for width in WIDTHS[name])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="frappe", choices=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan, started = PLANS[args.set], time.time()
    decays = json.loads((RESULTS / f"dimreg_{args.set}_deepfm_32.json").read_text())["tuned"]["decays"]
    for seed in args.seeds:
        data = load(args.set, args.data, seed=seed, rows=plan.rows)
        setting = rivals.Setting(data, "deepfm", 32, plan.epochs, plan.lr, plan.sparse)
        setting.decays |= decays
        for arm in arms_of(args.set):
            model, facts = trained(setting, seed, arm, args.weights)
            score = auc(predict(model, data.test[0]), data.test[1].numpy())
            print(f"{time.time() - started:6.0f} s  seed {seed}  {arm:16} {score:.4f} {facts}", flush=True)


if __name__ == "__main__":
    main()
