"""Reinforced curriculum with Accelerate on several processes: a classifier whose labels are partly wrong.

    torchrun --nproc_per_node 2 examples/curriculum_accelerate.py --out runs/curriculum

The search is dealt to the processes and resumes from ``--out``; every process gets the same policy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tamis.callbacks import ResumableLoader, attach
from tamis.core import torch_generator
from tamis.features import FeatureTable, log_likelihoods
from tamis.samplers import CurriculumSampler
from tamis.search import AgentConfig, search_curriculum

COLUMNS = ("sum", "per_token")


def make_data(count, wrong, seed):
    """Points on two rings; a share ``wrong`` has the other ring's label."""
    generator = torch_generator(7, seed)
    x = torch.randn(count, 6, generator=generator)
    labels = (x[:, :2].norm(dim=1) > 1.2).long()
    flip = torch.rand(count, generator=generator) < wrong
    return TensorDataset(x, torch.where(flip, 1 - labels, labels))


def accuracy(model, data):
    x, labels = data.tensors
    with torch.no_grad():
        return float((model(x).argmax(1) == labels).float().mean())


def fit(accelerator, model, data, epochs, lr, sampler=None):
    loader = DataLoader(data, 32, sampler=sampler, shuffle=sampler is None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if sampler is not None:
        loader = ResumableLoader(loader, sampler)
        attach(accelerator, loader)
    for _ in loader.epochs(epochs) if sampler is not None else range(epochs):
        for x, labels in loader:
            accelerator.backward(nn.functional.cross_entropy(wrapped(x), labels))
            optimizer.step()
            optimizer.zero_grad()


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum_accelerate"))
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args(argv)

    accelerator = Accelerator(cpu=True)
    train, validation, test = make_data(args.samples, 0.3, 1), make_data(300, 0.0, 2), make_data(1000, 0.0, 3)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
    fit(accelerator, model, train, args.epochs, lr=1e-2)
    before = accuracy(model, test)

    # a feature of our own beside the log-likelihood: where the point lies, and its label
    x, labels = train.tensors
    groups = {
        "log_likelihood": torch.from_numpy(log_likelihoods(model, train)),
        "point": torch.cat([x, labels[:, None]], 1),
    }
    features = FeatureTable(groups, {"log_likelihood": COLUMNS, "point": (*map(str, range(6)), "label")})
    policy = search_curriculum(
        model, train, validation, features, rounds=(16,), update=None, out=args.out,
        agent=AgentConfig(steps=args.steps, warm_up=args.steps // 10, hidden=(64, 64)),
    )  # fmt: skip
    fit(accelerator, model, train, 2, lr=1e-3, sampler=CurriculumSampler(policy, features, seed=0))
    after = accuracy(model, test)
    accelerator.print(policy.summary())
    accelerator.print(f"test accuracy {before:.3f} -> {after:.3f} on {accelerator.num_processes} processes")
    return before, after, policy.digest(), accelerator.num_processes


if __name__ == "__main__":
    main()
