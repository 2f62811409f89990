"""DNIS in a plain PyTorch loop: two lines more. ``python examples/dnis_plain_loop.py``."""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path

import torch
from ctr_models import WideDeep
from tabular import Table, collate, load_table
from torch.utils.data import DataLoader

from tamis.pruners import DNIS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/dnis_plain")
    args = parser.parse_args(argv)

    rows, test, sizes = load_table(Path(__file__).parent / "data" / "adult.parquet", "label")
    held_out = len(rows) // 5
    train = Table(rows.features[held_out:], rows.labels[held_out:])
    validation = Table(rows.features[:held_out], rows.labels[:held_out])
    model = WideDeep(sizes, dim=16, hidden=(32,))
    loader = DataLoader(train, batch_size=512, shuffle=True, collate_fn=collate)
    held_out_batches = cycle(DataLoader(validation, batch_size=512, shuffle=True, collate_fn=collate))
    pruner = DNIS(model, size=0.3, total_steps=args.epochs * len(loader))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    for epoch in range(args.epochs):
        for batch in loader:
            loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            unseen = next(held_out_batches)
            pruner.step(validation_loss=lambda unseen=unseen: model(**unseen)["loss"])
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {loss.item():.4f}")

    plan = pruner.prune(optimizer, example_inputs={"features": train.features[:64]})
    print(pruner.report)
    plan.save(args.out)
    with torch.inference_mode():
        print(f"test loss {model(test.features, test.labels)['loss'].item():.4f}")


if __name__ == "__main__":
    main()
