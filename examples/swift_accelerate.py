"""Train with a searched law on two processes, stop in the middle of an epoch, and go on as if nothing had happened.

``torchrun --nproc_per_node 2 examples/swift_accelerate.py --cpu``
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from swift_plain_loop import accuracy, make_data, make_model, train_epochs
from torch import nn
from torch.utils.data import DataLoader

from tamis.callbacks import ResumableLoader, attach
from tamis.features import sample_features
from tamis.samplers import SwiftSampler
from tamis.search import search_swift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--out", default="runs/swift_accelerate")
    parser.add_argument("--cpu", action="store_true", help="stay on the CPU (gloo)")
    options = parser.parse_args()
    accelerator = Accelerator(cpu=options.cpu)
    train, valid, test, _ = make_data()

    # the search deals whole trials to the processes; every process gets the same policy
    shared = make_model()
    train_epochs(shared, DataLoader(train, batch_size=50), epochs=3)
    features = sample_features(shared, train)

    def fit(sampler: SwiftSampler) -> float:
        train_epochs(shared, DataLoader(train, batch_size=50, sampler=sampler), epochs=3)
        return accuracy(shared, valid)

    policy = search_swift(
        fit, features, model=shared, trials=options.trials, parallel=accelerator.num_processes, out=options.out
    )

    def start():
        """Everything that a fresh process builds, before it trains or resumes."""
        made = Accelerator(cpu=options.cpu)
        model, sampler = make_model(), SwiftSampler(policy, features, seed=0)
        loader = DataLoader(train, batch_size=25, sampler=sampler)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model, optimizer, loader = made.prepare(model, optimizer, loader)
        batches = ResumableLoader(loader, sampler)
        attach(made, batches)  # part of save_state and load_state from here on
        return made, model, optimizer, batches

    def run(made, model, optimizer, batches, stop_at: tuple[int, int] | None = None) -> None:
        for epoch in batches.epochs(6):
            for x, y in batches:
                made.backward(nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
                if (epoch, batches.batch) == stop_at:
                    return made.save_state(options.out + "/checkpoint")
        return None

    whole = start()
    run(*whole)
    run(*start(), stop_at=(3, 7))
    resumed = start()
    resumed[0].load_state(options.out + "/checkpoint")
    run(*resumed)

    one, two = (accelerator.unwrap_model(made[1]) for made in (whole, resumed))
    equal = all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    accelerator.print(f"{accelerator.num_processes} processes; resumed equals uninterrupted: {equal}")
    accelerator.print(f"clean test accuracy {accuracy(two.cpu(), test):.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
