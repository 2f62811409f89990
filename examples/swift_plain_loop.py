"""Swift Sampler in a plain PyTorch loop: find the wrong labels' samples without knowing them, and stop drawing them.

scikit-learn's digits with 40 % of the training labels moved to another class. Run: python examples/swift_plain_loop.py
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from tamis.features import sample_features
from tamis.samplers import SwiftSampler
from tamis.search import search_swift

NOISE = 0.4


def make_data() -> tuple[TensorDataset, TensorDataset, TensorDataset, torch.Tensor]:
    """Noisy training and validation data, clean test data, and which training labels are wrong (only to report)."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x = (x.float() - 8) / 6
    order = torch.randperm(len(x), generator=generator)
    wrong = torch.rand(len(x), generator=generator) < NOISE
    noisy = torch.where(wrong, (y + torch.randint(1, 10, y.shape, generator=generator)) % 10, y)
    train, valid, test = order[:1000], order[1000:1400], order[1400:]
    return (
        TensorDataset(x[train], noisy[train]),
        TensorDataset(x[valid], noisy[valid]),
        TensorDataset(x[test], y[test]),
        wrong[train],
    )


def make_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train_epochs(model: nn.Module, loader: DataLoader, epochs: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch) if hasattr(loader.sampler, "set_epoch") else None
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    x, y = data.tensors
    return float((model(x).argmax(1) == y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--out", default=None, help="folder for the journal and the policy; resumes from it")
    options = parser.parse_args()
    train, valid, test, wrong = make_data()

    # 1. A model trained for a few epochs only, and what it says about each sample
    uniform = DataLoader(train, batch_size=50, sampler=RandomSampler(train, generator=torch.Generator().manual_seed(1)))
    model = make_model()
    train_epochs(model, uniform, epochs=3)
    features = sample_features(model, train)

    # 2. The search: each trial starts from these weights and is scored on (noisy) validation data
    def fit(sampler):
        train_epochs(model, DataLoader(train, batch_size=50, sampler=sampler), epochs=4)
        return accuracy(model, valid)

    policy = search_swift(fit, features, model=model, trials=options.trials, seed=0, out=options.out)
    print(policy.summary())

    # 3. Train from scratch with the law that was found
    sampler = SwiftSampler(policy, features, seed=0)
    model = make_model()
    train_epochs(model, DataLoader(train, batch_size=50, sampler=sampler), epochs=20)
    plain = make_model()
    train_epochs(plain, uniform, epochs=20)
    drawn = torch.tensor(list(sampler))
    print(f"drawn samples with a wrong label: {float(wrong[drawn].float().mean()):.0%}, of all: {NOISE:.0%}")
    print(f"clean test accuracy: uniform {accuracy(plain, test):.3f}, Swift Sampler {accuracy(model, test):.3f}")


if __name__ == "__main__":
    main()
