"""DNIS in Hugging Face Trainer: one callback and a validation set. ``python examples/dnis_trainer.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctr_models import DeepFM
from tabular import Table, collate, load_table
from transformers import Trainer, TrainingArguments

import tamis
from tamis.callbacks import PruningCallback
from tamis.pruners import DNIS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/dnis_trainer")
    args = parser.parse_args(argv)

    rows, test, sizes = load_table(Path(__file__).parent / "data" / "adult.parquet", "label")
    held_out = len(rows) // 5  # what alpha learns from is neither trained on nor tested on
    train = Table(rows.features[held_out:], rows.labels[held_out:])
    validation = Table(rows.features[:held_out], rows.labels[:held_out])
    model = DeepFM(sizes, dim=16, hidden=(32,))

    pruner = DNIS(model, size=0.2)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=args.out,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=512,
            learning_rate=3e-3,
            save_strategy="no",
            logging_steps=50,
            report_to=[],
            remove_unused_columns=False,
        ),
        train_dataset=train,
        eval_dataset=test,
        data_collator=collate,
        callbacks=[PruningCallback(pruner, validation=validation)],
    )
    trainer.train()
    print(pruner.report)

    loss = trainer.evaluate()["eval_loss"]  # of the small model
    trainer.save_model(args.out)
    small = tamis.load_pruned(DeepFM(sizes, dim=16, hidden=(32,)), args.out)
    print(f"test loss {loss:.4f}, {sum(p.numel() for p in small.embeddings.parameters()):,} embedding parameters")


if __name__ == "__main__":
    main()
