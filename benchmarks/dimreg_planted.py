"""Planted ranks: does DimReg keep more dimensions where more are useful, and what does the cut cost?

Ten fields of known useful rank (0 to 8), d = 16, a factorization machine, 70 % of the (field, dimension) pairs pruned.
The null has every field at full rank: a method must then not claim that pruning is free.
``python -m benchmarks.dimreg_planted`` writes ``results/dimreg_planted.json`` as it goes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tamis
from benchmarks.ctr.data import load
from benchmarks.ctr.rivals import Setting
from benchmarks.ctr.training import auc, predict
from tamis.pruners import DimReg

TARGET = Path(__file__).parent / "results" / "dimreg_planted.json"


def ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks, ties shared."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(first: list[int], second: list[int]) -> float:
    """Rank correlation; 0 if one of them is constant."""
    a, b = ranks(np.array(first)), ranks(np.array(second))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def run(name: str, seed: int, keep: float, epochs: int, lr: float) -> dict[str, Any]:
    data = load(name, seed=seed)
    setting = Setting(data, "fm", 16, epochs, lr)
    full = setting.train(setting.build(seed), seed, patience=epochs)
    model = setting.build(seed)
    pruner = DimReg(model, keep=keep, total_steps=setting.steps)
    setting.train(model, seed, pruner=pruner, patience=epochs, patience_from=int(np.ceil(0.34 * epochs)) - 1)
    pruner.prune()
    test = auc(predict(model, data.test[0]), data.test[1].numpy())
    kept = [field.kept for field in pruner.report.fields]
    useful = list((data.useful or {}).values())
    return {
        "full": full.test,
        "DimReg": test,
        "fall": full.test - test,
        "kept": kept,
        "useful": useful,
        "spearman": spearman(kept, useful),
        "largest_removed": pruner.report.largest_removed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--quick", action="store_true", help="one seed, nothing written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    target = Path(os.devnull) if args.quick else TARGET
    result = {
        "benchmark": "dimreg_planted",
        "seeds": args.seeds,
        "data": "synthetic, see benchmarks/ctr/data.py",
        "budget": {"epochs": args.epochs, "keep": args.keep, "lr": args.lr},
        "versions": {"tamis": tamis.__version__, "torch": torch.__version__},
        "figures": {"planted": {}, "null": {}},
    }
    for seed in args.seeds[: 1 if args.quick else None]:
        for name in ("planted", "null"):
            figures = run(name, seed, args.keep, args.epochs, args.lr)
            result["figures"][name][str(seed)] = figures
            print(name, seed, {k: v for k, v in figures.items() if k != "useful"}, flush=True)
            target.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
