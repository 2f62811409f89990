"""DimReg in Hugging Face Trainer: one callback. ``python examples/dimreg_trainer.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctr_models import DeepFM
from tabular import collate, load_table
from transformers import Trainer, TrainingArguments

import tamis
from tamis.callbacks import PruningCallback
from tamis.pruners import DimReg


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/dimreg_trainer")
    args = parser.parse_args(argv)

    train, test, sizes = load_table(Path(__file__).parent / "data" / "adult.parquet", "label")
    model = DeepFM(sizes, dim=16, hidden=(32,))

    pruner = DimReg(model, size=0.2)
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
        callbacks=[PruningCallback(pruner)],
    )
    trainer.train()
    print(pruner.report)

    loss = trainer.evaluate()["eval_loss"]  # of the small model
    trainer.save_model(args.out)
    small = tamis.load_pruned(DeepFM(sizes, dim=16, hidden=(32,)), args.out)
    print(f"test loss {loss:.4f}, {sum(p.numel() for p in small.embeddings.parameters()):,} embedding parameters")


if __name__ == "__main__":
    main()
