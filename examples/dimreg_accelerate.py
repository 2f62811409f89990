"""DimReg in an Accelerate loop on two processes: ``torchrun --nproc_per_node 2 examples/dimreg_accelerate.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from ctr_models import DeepFM
from tabular import collate, load_table
from torch.utils.data import DataLoader

from tamis.pruners import DimReg


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", default="runs/dimreg_accelerate")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU (gloo)")
    args = parser.parse_args(argv)

    accelerator = Accelerator(cpu=args.cpu)
    train, _, sizes = load_table(Path(__file__).parent / "data" / "adult.parquet", "label")
    network = DeepFM(sizes, dim=16, hidden=(32,))
    loader = DataLoader(train, batch_size=512, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

    # before prepare() wraps the model; steps are counted per process, after the data was split
    pruner = DimReg(network, size=0.2)
    model, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    pruner.begin(args.epochs * len(loader))

    for epoch in range(args.epochs):
        for batch in loader:
            loss = model(**batch)["loss"] + pruner.penalty()
            accelerator.backward(loss)
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.4f}")

    pruner.prune(optimizer, example_inputs={"features": train.features[:64].to(accelerator.device)})
    accelerator.print(pruner.report)
    if accelerator.is_main_process:
        accelerator.save_model(network, args.out)


if __name__ == "__main__":
    main()
