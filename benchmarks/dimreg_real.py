"""DimReg against the full model and its rivals at equal embedding parameters and equal epochs, on real clicks.

``python -m benchmarks.dimreg_real --set movielens1m_crossed`` writes ``results/dimreg_SET_MODEL_DIM.json`` as it goes.
The full model's row decay is chosen on the validation part with seed 0; every run keeps its best epoch by validation
AUC; the test part is scored once per run. Searching counts: a method that trains at full width first and then anew
has only the rest of the epochs left.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tamis
from benchmarks.ctr import rivals
from benchmarks.ctr.data import CTRData, default_data, load
from benchmarks.ctr.training import auc, predict
from tamis.pruners import DimReg, DimRegConfig

RESULTS = Path(__file__).parent / "results"
TRAINING = {  # epochs, learning rate
    "movielens1m": (3, 1e-3),
    "movielens1m_crossed": (3, 1e-3),
    "frappe": (6, 5e-3),
    "planted": (6, 5e-3),
}
DECAYS = (0.0, 1e-3, 1e-2)
WIDTHS = (1, 2, 4, 8)


def dimreg(
    setting: rivals.Setting, seed: int, budget: int | None, config: DimRegConfig
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train with gates, cut, score the cut model; also return the columns kept (field -> [k]).

    ``split="mean"`` has no budget: it is cut by force, at the end of the training, at whatever share it reaches.
    """
    model = setting.build(seed)
    mean, bytes_ = config.split == "mean", None if budget is None else 4 * budget
    pruner = DimReg(model, budget_bytes=bytes_, config=config, total_steps=setting.steps)
    settled = int(np.ceil((config.decide_by + config.closing) * setting.epochs))  # epochs until the gates are closed
    run = setting.train(model, seed, pruner=pruner, patience_from=(setting.epochs if mean else settled) - 1)
    open_ = (pruner.gates >= 0.5).split([table.width for table in pruner.tables])
    columns = {field: part.nonzero()[:, 0] for field, part in zip(setting.data.sizes, open_, strict=True)}
    pruner.prune(force=mean)
    data = setting.data
    test = auc(predict(model, data.test[0]), data.test[1].numpy())
    kept = {field.field.removeprefix("embeddings."): field.kept for field in pruner.report.fields}
    return entry(setting, run, kept) | {"test": test, "test_before_cut": run.test}, columns


def entry(setting: rivals.Setting, run: Any, kept: dict[str, int]) -> dict[str, Any]:
    """One run as JSON; ``parameters``: numbers in the embedding tables."""
    parameters = sum(kept[field] * rows for field, rows in setting.data.sizes.items())
    return {
        "test": run.test,
        "validation": run.validation,
        "best_epoch": run.best,
        "parameters": parameters,
        "share": parameters / setting.parameters,
        "kept": kept,
        "seconds": round(run.seconds, 1),
    }


def compare(setting: rivals.Setting, seed: int, share: float, more: list[float], decay: float) -> Any:
    """Yield (name, entry) for every method at ``share`` of the parameters, and DimReg at the shares in ``more``."""
    budget, search = int(share * setting.parameters), max(1, round(setting.epochs / 3))
    fields = setting.data.sizes
    run = rivals.uniform(setting, seed, setting.dim, row_decay=decay)
    yield "full, tuned", entry(setting, run, dict.fromkeys(fields, setting.dim))
    for width in WIDTHS:
        yield f"uniform {width}", entry(setting, rivals.uniform(setting, seed, width), dict.fromkeys(fields, width))
    ours, columns = dimreg(setting, seed, budget, DimRegConfig())
    yield f"DimReg {share:g}", ours
    for other in more:
        yield f"DimReg {other:g}", dimreg(setting, seed, int(other * setting.parameters), DimRegConfig())[0]
    yield f"DimReg without pairs {share:g}", dimreg(setting, seed, budget, DimRegConfig(pair_share=0.0))[0]
    yield "thesis' form, cut by force, own share", dimreg(setting, seed, None, DimRegConfig.paper())[0]
    for power in (0.3, 0.6):
        yield f"MDE power {power} {share:g}", entry(setting, *rivals.mde(setting, seed, budget, power))
    counts = ours["kept"]
    run = rivals.random_columns(setting, seed, counts)
    yield f"random columns, DimReg's counts {share:g}", entry(setting, run, counts)
    run = rivals.same_columns(setting, seed, columns)
    yield f"DimReg retrained, twice the epochs {share:g}", entry(setting, run, counts)
    yield f"magnitude, retrained {share:g}", entry(setting, *rivals.magnitude(setting, seed, budget, search))
    yield f"one-shot saliency, retrained {share:g}", entry(setting, *rivals.one_shot(setting, seed, budget, search))
    yield f"L1 gates {share:g}", entry(setting, *rivals.l1_gates(setting, seed, budget, search, 1e-4))


def tune_decay(setting: rivals.Setting) -> float:
    """The decay with the best validation AUC of the full model, seed 0."""
    return max(DECAYS, key=lambda d: max(rivals.uniform(setting, 0, setting.dim, row_decay=d).validation))


def first_rows(data: CTRData, rows: int | None) -> CTRData:
    """``data`` with at most ``rows`` training rows."""
    return CTRData(**(vars(data) | {"train": tuple(part[:rows] for part in data.train)}))


def open_result(target: Path, setting: rivals.Setting, args: argparse.Namespace) -> dict[str, Any]:
    """What the file holds of the same comparison, or a new result."""
    head = {
        "benchmark": "dimreg_real",
        "data": {"name": args.set, "train_rows": len(setting.data.train[0]), "table_rows": setting.data.rows},
        "model": args.model,
        "dim": args.dim,
        "budget": {"epochs": setting.epochs, "batch": setting.batch, "lr": setting.lr, "steps": setting.steps},
    }
    if target.is_file():
        result = json.loads(target.read_text())
        if {key: result[key] for key in head} == head:
            return result
    versions = {"tamis": tamis.__version__, "torch": torch.__version__, "numpy": np.__version__}
    return head | {"versions": versions, "decay": tune_decay(setting), "seeds": [], "figures": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="movielens1m_crossed", choices=list(TRAINING))
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--rows", type=int, default=None, help="use only that many training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="added to those in the file")
    parser.add_argument("--share", type=float, default=0.03, help="of the parameters: all methods at this one")
    parser.add_argument("--more", type=float, nargs="*", default=[0.125], help="DimReg alone at these")
    parser.add_argument("--data", type=Path, default=default_data())
    parser.add_argument("--quick", action="store_true", help="one seed, three epochs, 20,000 rows, nothing written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    epochs, lr = TRAINING[args.set]
    target = RESULTS / f"dimreg_{args.set}_{args.model}_{args.dim}.json"
    if args.quick:
        args.seeds, args.rows, epochs, target = [0], 20_000, 3, Path(os.devnull)
    setting = rivals.Setting(first_rows(load(args.set, args.data), args.rows), args.model, args.dim, epochs, lr)
    result = open_result(target, setting, args)
    started = time.time()
    for seed in args.seeds:
        for name, figures in compare(setting, seed, args.share, args.more, result["decay"]):
            result["figures"].setdefault(name, {})[str(seed)] = figures
            spent, score = time.time() - started, figures["test"]
            print(f"{spent:6.0f} s  seed {seed}  {name:45} {figures['share']:7.2%}  {score:.4f}", flush=True)
            target.write_text(json.dumps(result, indent=1))
        result["seeds"] = sorted({*result["seeds"], seed})
        target.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
