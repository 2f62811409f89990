"""The demo: a DeepFM on real rows, once as it is and once with DimReg, through Hugging Face Trainer.

    make demo                                   # UCI Adult, shipped in examples/data
    make demo DATA=table.parquet LABEL=clicked  # your own table

Prints one table and writes pictures and a self-contained report.html.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ctr_models import DeepFM
from report import SMALLER, draw_curve, draw_dims, draw_gates, write_report
from tabular import Table, collate, load_table
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer, TrainingArguments

from tamis.callbacks import attach
from tamis.pruners import DimReg

DIM, BATCH, EPOCHS, LEARNING_RATE, HIDDEN = 32, 512, 4, 3e-3, (64, 32)
SHARES = (0.5, 0.25, 0.1, 0.05)  # of the tables' bytes that DimReg may keep
SMALL_DIMS = (16, 8, 3, 2)  # the rival: every table equally narrow from the start
HELD_OUT = 0.1  # of the training rows: they choose among the shares, and no model trains on them
KEEPS_UP = 0.005  # a share whose AUC on them is this close to the full model's, or above it, keeps up


@dataclass
class Result:
    """One trained model and what it costs."""

    name: str
    validation_auc: float
    auc: float
    parameters: int
    disk_bytes: int
    rows_per_second: float
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=Path(__file__).parent / "data" / "adult.parquet", help=".parquet or .csv")
    parser.add_argument("--label", default="label", help="the label column, with two values")
    parser.add_argument("--out", default="demo", help="folder for the pictures and the report")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    rows, test, sizes = load_table(args.data, args.label)
    train, valid = split(rows)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    print(
        f"{Path(args.data).name}: {len(train):,} training rows, {len(valid):,} held out of them to choose a size, "
        f"{len(test):,} test rows, {len(sizes)} fields"
    )
    jobs: list[tuple[str, int, float | None]] = [("full", DIM, None)]
    jobs += [(f"DimReg {share:.0%}", DIM, share) for share in SHARES]
    jobs += [(f"d = {dim}", dim, None) for dim in SMALL_DIMS]
    print(f"{len(jobs)} models to train: a few minutes on two cores")
    results, watched = [], {}
    for name, dim, share in tqdm(jobs, desc="models", leave=False):
        model, watched[name], seconds = train_one(train, sizes, dim, share, args.epochs, out)
        results.append(measure(name, model, valid, test, seconds, out))
    main_results, rivals = results[: 1 + len(SHARES)], results[1 + len(SHARES) :]
    chosen, verdict = choose(main_results)
    pruner = watched[chosen.name]
    report = pruner.pruner.report
    pictures = [
        draw_gates(pruner.gates_at_start, pruner.gates_at_end, out / "gates.png"),
        draw_dims(report, chosen.name, out / "dimensions.png"),
        draw_curve(results, chosen, out / "auc_against_parameters.png"),
    ]
    page = write_report(
        out / "report.html", Path(args.data).name, main_results, rivals, verdict, f"{chosen.name}\n{report}", pictures
    )
    print_table(main_results)
    print(f"\n{verdict}\n\n{chosen.name}, field by field\n{report}")
    print(f"\nValues seen once in training have no row of their own. {SMALLER}")
    print(f"\nPictures and report: {page}")
    return 0


def split(rows: Table) -> tuple[Table, Table]:
    """Training rows, and those that are held out of them."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    held = max(1, int(HELD_OUT * len(rows)))
    parts = (order[held:], order[:held])
    return tuple(Table(rows.features[part], rows.labels[part]) for part in parts)


def choose(results: list[Result]) -> tuple[Result, str]:
    """The smallest size that keeps up with the full model, which comes first, on held-out rows; and that in words."""
    full, *cut = results
    near = [result for result in cut if result.validation_auc >= full.validation_auc - KEEPS_UP]
    if near:
        best = min(near, key=lambda result: result.parameters)
        return best, (
            f"{best.name} is the smallest that keeps up with the full model: its AUC on held-out rows is "
            f"{best.validation_auc:.4f}, the full model's {full.validation_auc:.4f}."
        )
    best = max(cut, key=lambda result: result.validation_auc)
    return best, (
        f"No share keeps up with the full model on held-out rows; {best.name} comes nearest ({best.validation_auc:.4f} "
        f"against {full.validation_auc:.4f}). This table needs its dimensions, or more epochs (--epochs)."
    )


class Watched:
    """A pruner and its gates at both ends of the training."""

    def __init__(self, pruner: DimReg) -> None:
        self.pruner, self.gates_at_start = pruner, pruner.gates
        self.gates_at_end = self.gates_at_start


def train_one(
    data: Table, sizes: dict[str, int], dim: int, share: float | None, epochs: int, out: Path
) -> tuple[DeepFM, Any, float]:
    """Train a DeepFM with Trainer; with ``share``, DimReg cuts its tables to that share of their bytes at the end."""
    torch.random.default_generator.manual_seed(0)  # the same start for every model of one width
    model = DeepFM(sizes, dim=dim, hidden=HIDDEN)
    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=epochs,
        learning_rate=LEARNING_RATE,
        weight_decay=0.01,
        save_strategy="no",
        report_to=[],
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    watched = None
    if share is not None:
        watched = Watched(DimReg(model, size=share))
        attach(trainer, watched.pruner, prune_at_end=False)  # cut below: the picture needs the gates before
    start = time.perf_counter()
    trainer.train()
    if watched is not None:
        watched.gates_at_end = watched.pruner.gates
        watched.pruner.prune(example_inputs={"features": data.features[:256].to(model.bias.device)})
    return model, watched, time.perf_counter() - start


def measure(name: str, model: DeepFM, valid: Table, test: Table, seconds: float, out: Path) -> Result:
    """AUC on held-out and test rows, embedding parameters, bytes of the saved weights, inference speed on the CPU."""
    from safetensors.torch import save_file

    model = model.cpu().eval()
    batches = test.features.split(2048)
    with torch.inference_mode():
        held_out = model(valid.features)["logits"]
        logits = torch.cat([model(batch)["logits"] for batch in batches])
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for batch in batches:
                model(batch)
            times.append(time.perf_counter() - start)
    file = out / "trainer" / "weights.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, str(file))
    parameters = sum(p.numel() for p in model.embeddings.parameters())
    speed = len(test) / statistics.median(times)
    validation_auc, auc = _auc(valid, held_out), _auc(test, logits)
    return Result(name, validation_auc, auc, parameters, file.stat().st_size, speed, seconds)


def _auc(rows: Table, logits: torch.Tensor) -> float:
    """Area under the ROC curve; 0.5 where a small table leaves one label only."""
    from sklearn.metrics import roc_auc_score

    labels = rows.labels.numpy()
    return float(roc_auc_score(labels, logits.numpy())) if labels.min() < labels.max() else 0.5


def print_table(results: list[Result]) -> None:
    """The comparison, one column per model."""
    rows = [
        ("AUC on held-out rows", [f"{r.validation_auc:.4f}" for r in results]),
        ("test AUC", [f"{r.auc:.4f}" for r in results]),
        ("embedding parameters", [f"{r.parameters:,}" for r in results]),
        ("bytes on disk", [f"{r.disk_bytes:,}" for r in results]),
        ("inference rows/s", [f"{r.rows_per_second:,.0f}" for r in results]),
        ("training time, s", [f"{r.seconds:.1f}" for r in results]),
    ]
    print(f"\n{'':24}" + "".join(f"{r.name:>14}" for r in results))
    for title, cells in rows:
        print(f"{title:24}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    raise SystemExit(main())
