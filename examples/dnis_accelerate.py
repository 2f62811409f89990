"""DNIS in an Accelerate loop on two processes: ``torchrun --nproc_per_node 2 examples/dnis_accelerate.py``."""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path

import torch
from accelerate import Accelerator
from ctr_models import DeepFM
from tabular import Table, collate, load_table
from torch.utils.data import DataLoader

from tamis.pruners import DNIS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/dnis_accelerate")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU (gloo)")
    args = parser.parse_args(argv)

    accelerator = Accelerator(cpu=args.cpu)
    rows, _, sizes = load_table(Path(__file__).parent / "data" / "adult.parquet", "label")
    held_out = len(rows) // 5
    train = Table(rows.features[held_out:], rows.labels[held_out:])
    validation = Table(rows.features[:held_out], rows.labels[:held_out])
    network = DeepFM(sizes, dim=16, hidden=(32,))
    loader = DataLoader(train, batch_size=512, shuffle=True, collate_fn=collate)
    other = DataLoader(validation, batch_size=512, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

    pruner = DNIS(network, size=0.2)  # before prepare() wraps the model
    model, optimizer, loader, other = accelerator.prepare(network, optimizer, loader, other)
    pruner.begin(args.epochs * len(loader))
    held_out_batches = cycle(other)

    for epoch in range(args.epochs):
        for batch in loader:
            loss = model(**batch)["loss"]
            accelerator.backward(loss)
            optimizer.step()
            unseen = next(held_out_batches)
            pruner.step(validation_loss=lambda unseen=unseen: network(**unseen)["loss"])  # the module itself, not DDP
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.4f}")

    pruner.prune(optimizer, example_inputs={"features": train.features[:64].to(accelerator.device)})
    accelerator.print(f"{accelerator.num_processes} processes")
    accelerator.print(pruner.report)
    if accelerator.is_main_process:
        accelerator.save_model(network, args.out)


if __name__ == "__main__":
    main()
