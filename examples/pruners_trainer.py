"""Any pruner in Hugging Face Trainer, trained again where its paper does. ``python examples/pruners_trainer.py``."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

from ctr_models import DeepFM
from tabular import Table, collate, load_table
from transformers import Trainer, TrainingArguments

import tamis.pruners
from tamis.callbacks import PruningCallback

COLUMNS = ("L1Gates", "MDE", "SSEDS", "HAM", "AutoDim", "DimReg")
OTHERS = ("DNIS", "OptEmbed", "OptFS", "PEP", "DeepLight", "LPFS", "AutoField")  # blocks, rows, values, whole tables


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pruner", default="PEP", choices=COLUMNS + OTHERS)
    parser.add_argument("--size", type=float, default=0.4, help="share of the tables' bytes that remains")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/pruners_trainer")
    args = parser.parse_args(argv)

    rows, test, sizes = load_table(Path(__file__).parent / "data" / "adult.parquet", "label")
    held_out = len(rows) // 5  # what gates learn from is neither trained on nor tested on
    train = Table(rows.features[held_out:], rows.labels[held_out:])
    validation = Table(rows.features[:held_out], rows.labels[:held_out])

    def trainer_of(model: DeepFM, **options: object) -> Trainer:
        arguments = TrainingArguments(
            output_dir=args.out,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=512,
            learning_rate=3e-3,
            save_strategy="no",
            logging_steps=50,
            report_to=[],
            remove_unused_columns=False,
        )
        return Trainer(model, arguments, train_dataset=train, eval_dataset=test, data_collator=collate, **options)

    model = DeepFM(sizes, dim=16, hidden=(32,))
    start = copy.deepcopy(model)  # what a method with retrain="rewind" goes back to
    pruner = getattr(tamis.pruners, args.pruner)(model, size=args.size)
    learns = {"validation": validation} if pruner.validates else {}
    trainer = trainer_of(model, callbacks=[PruningCallback(pruner, **learns)])
    trainer.train()
    print(pruner.report)

    if pruner.retrain != "no":
        fresh = start if pruner.retrain == "rewind" else DeepFM(sizes, dim=16, hidden=(32,))
        trainer = trainer_of(pruner.restart(fresh))
        trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    before, after = pruner.report.bytes_before, pruner.report.bytes_after
    print(f"{args.pruner}: test loss {loss:.4f} with {after:,} of {before:,} bytes")


if __name__ == "__main__":
    main()
