"""DimReg in a plain PyTorch loop: three lines more. ``python examples/dimreg_plain_loop.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from ctr_models import WideDeep
from tabular import collate, load_table
from torch.utils.data import DataLoader

from tamis.pruners import DimReg


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/dimreg_plain")
    args = parser.parse_args(argv)

    train, test, sizes = load_table(Path(__file__).parent / "data" / "adult.parquet", "label")
    model = WideDeep(sizes, dim=16, hidden=(32,))  # no FM term: the first layer's columns can be cut, too
    loader = DataLoader(train, batch_size=512, shuffle=True, collate_fn=collate)
    pruner = DimReg(model, size=0.2, total_steps=args.epochs * len(loader))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    for epoch in range(args.epochs):
        for batch in loader:
            loss = model(**batch)["loss"] + pruner.penalty()
            loss.backward()
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {loss.item():.4f}")

    plan = pruner.prune(optimizer, example_inputs={"features": train.features[:64]})
    print(pruner.report)
    plan.save(args.out)
    with torch.inference_mode():
        print(f"test loss {model(test.features, test.labels)['loss'].item():.4f}")


if __name__ == "__main__":
    main()
