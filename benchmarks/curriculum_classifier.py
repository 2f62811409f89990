"""Claim under test: re-selected samples improve a trained classifier more than random continuation does.

CIFAR-10 codes (see `swift_common`), an MLP trained on 30 % wrong labels until its selection loss stops falling, then
continued by each method: ``UPDATES`` updates each ("equal updates"), then as many more as make the sample-forwards of
all methods equal to those of the dearest, eight rounds of the agent ("equal forwards"). The model at the lowest
selection loss is measured. ``--noise 0`` is the null experiment: nothing to find. What is there is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.curriculum_common import Run, equal_budgets, stream, tables
from benchmarks.swift_common import DATA, encoded
from tamis.core.rng import numpy_generator, seed_of, torch_generator
from tamis.features.losses import make_batch, sample_loss_of
from tamis.samplers import FeatureTable, LogLikelihood, LossDifference, log_likelihoods
from tamis.search import AgentConfig, search_curriculum
from tamis.search.curriculum.gradient import mean_loss, rewards_by

CODE, HIDDEN, BATCH, EVERY, UPDATES = 128, 64, 16, 25, 400
LR = 1e-4  # of the continued training, of every method: a tenth of the pre-training's, whose Adam state is kept
LOSS = sample_loss_of("classifier")
COLUMNS = ("sum", "per_token")


def task(codes, seed, noise, n):
    """Train (noisy), reward, selection and test data (clean), and which training labels are right."""
    generator = numpy_generator(2026, seed)
    order = generator.permutation(len(codes["train_x"]))
    parts = np.split(order[: n + 1000], [n, n + 500])
    x, y = torch.from_numpy(codes["train_x"][:, -CODE:]).float(), codes["train_y"].astype(np.int64)
    wrong = generator.random(n) < noise
    labels = y[parts[0]].copy()
    labels[wrong] = (labels[wrong] + generator.integers(1, 10, int(wrong.sum()))) % 10
    train = TensorDataset(x[parts[0]], torch.from_numpy(labels))
    held = [TensorDataset(x[p], torch.from_numpy(y[p])) for p in parts[1:]]
    test = TensorDataset(
        torch.from_numpy(codes["test_x"][:, -CODE:]).float(), torch.from_numpy(codes["test_y"].astype(np.int64))
    )
    return train, *held, test, ~wrong


def new_model(seed):
    model = nn.Sequential(nn.Linear(CODE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    generator = torch_generator(5, seed)
    with torch.no_grad():
        for p in model.parameters():
            p.uniform_(-1, 1, generator=generator).mul_(p.shape[-1] ** -0.5 if p.ndim > 1 else 0)
    return model


def whole(data):
    return [data.tensors]


def continued(model, optimizer, train, selection, lr, batch=BATCH):
    """A `Run` of ``model`` itself, from the optimizer's state."""
    adam = torch.optim.Adam(model.parameters(), lr=lr)
    if optimizer is not None:
        adam.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        adam.param_groups[0]["lr"] = lr

    def update(model, adam, indices):
        total, _ = LOSS(model, make_batch(train, indices, None, model))
        adam.zero_grad()
        total.mean().backward()
        adam.step()

    return Run(model, adam, update, lambda model: mean_loss(model, whole(selection), LOSS), batch, EVERY)


def features_of(model, train, others=None):
    with torch.no_grad():
        logits = model(train.tensors[0])
    p = logits.log_softmax(1)
    labels = nn.functional.one_hot(train.tensors[1], 10).float()
    own = torch.stack([p.max(1).values, torch.special.entr(p.exp()).sum(1), logits.norm(dim=1)], 1)
    groups = {"log_likelihood": torch.from_numpy(log_likelihoods(model, train, batch_size=2048))}
    groups |= {"output": torch.cat([own, logits], 1), "label": labels}
    columns = {"log_likelihood": COLUMNS, "label": tuple(map(str, range(10)))}
    columns["output"] = ("confidence", "entropy", "norm", *(f"logit{k}" for k in range(10)))
    return FeatureTable(groups, {name: columns[name] for name in groups})


def by_hand(name, model, parts, seed):
    """Scores of a hand-written curriculum and their sample-forwards."""
    train, held, selection = parts[:3]
    n = len(train)
    if name == "alignment":
        measure = rewards_by("first_order", model, lambda: whole(held), 1e-4, LOSS)
        return torch.from_numpy(measure([train.tensors])), 2 * n + 3 * len(held)
    if name == "lowest_loss":
        return LogLikelihood()(features_of(model, train)), n
    # the trusted data is the reward's: a model of its own, or a copy tuned on it
    other, lr, updates = (new_model(seed + 100), 1e-3, 1000) if name == "rho" else (copy.deepcopy(model), 3e-4, 200)
    run, order = continued(other, None, held, selection, lr, batch=32), numpy_generator(9, seed)
    run.go(lambda at, count: order.integers(0, len(held), count), updates, patience=4)
    run.be(run.kept)
    values = torch.from_numpy(log_likelihoods(other, train, batch_size=2048))
    table = features_of(model, train).with_group("second", values, COLUMNS)
    return LossDifference("second")(table), 2 * n + run.updates * 32 * 3 + run.looks * len(selection)


def by_agent(model, parts, pool, seed, steps, lookahead):
    """Scores of an agent that is trained now and its sample-forwards."""
    train, held, selection = parts[:3]
    agent = AgentConfig(steps=steps, warm_up=steps // 10, hidden=(64, 64), trailing=steps // 4)
    table = features_of(model, train)
    policy = search_curriculum(
        model, train, held, table, selection=selection, rounds=(pool,), update=None, agent=agent, probes=0, seed=seed,
        batch_size=2048, loss="classifier", lookahead=lookahead,
    )  # fmt: skip
    return policy(table), policy.search.budget["sample_forwards"] + len(train)


# pool size of each round; rcl_8_ahead takes lookahead and its lr as they are in curriculum_translation
RCL = {"rcl_1": (16,), "rcl_2": (16, 128), "rcl_8": (4,) * 8, "rcl_8_ahead": (4,) * 8}
# rivals with as many rounds as rcl_8: fresh scores and a return to the best weights at the beginning of each
FRESH = {"random_8": (1,) * 8, "lowest_loss_8": (4,) * 8, "alignment_8": (4,) * 8}


def run_method(name, base, optimizer, parts, seed, steps):
    """Continue by one method: its row of the table. Hand-written ones take one of 4."""
    train, held, selection, test, clean = parts

    def scores_of(model, number, pool):
        if name in ("random", "random_8"):
            return torch.zeros(len(train)), 0
        if name in RCL:
            return by_agent(model, parts, pool, seed_of(seed, number), steps, 36 if name == "rcl_8_ahead" else 1)
        return by_hand(name.removesuffix("_8"), model, parts, seed)

    def measure(model):
        with torch.no_grad():
            right = model(test.tensors[0]).argmax(1) == test.tensors[1]
        return {"test loss": mean_loss(model, whole(test), LOSS), "test accuracy": float(right.float().mean())}

    pools = {**RCL, **FRESH, "random": (1,)}.get(name, (4,))
    return equal_budgets(
        continued(copy.deepcopy(base), optimizer, train, selection, LR), pools,
        scores_of, measure, clean, updates=UPDATES, budget=8 * (3 * len(train) + 3 * len(held)),
        each=3 * BATCH + len(selection) / EVERY, seed=seed,
    )  # fmt: skip


METHODS = ("random", "lowest_loss", "rho", "denoising", "alignment", "rcl_1", "rcl_2", "rcl_8", "rcl_8_ahead", *FRESH)


def one_seed(args, codes, noise, seed, row):
    """Fill ``row`` with the methods that it lacks, on one draw of data, noise and model."""
    parts, model = task(codes, seed, noise, args.samples), new_model(seed)
    run = continued(model, None, parts[0], parts[2], 1e-3, batch=64)
    run.go(stream(torch.zeros(args.samples), 1, seed), 4000, patience=12)
    run.be(run.kept)
    row["before"] = {"test loss": mean_loss(model, whole(parts[3]), LOSS), "updates in all": run.updates}
    for name in (name for name in args.methods if name not in row):
        row[name] = run_method(name, model, run.optimizer, parts, seed, 40 if args.quick else args.steps)
        print(noise, seed, name, {k: round(v, 4) for k, v in row[name].items()}, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 0.0])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curriculum_classifier.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codes = encoded(args.data)
    runs = json.loads(args.out.read_text()).get("runs", {}) if args.out.exists() else {}
    for noise in args.noise:
        have = runs.setdefault(f"{noise:.0%} wrong labels", {})
        for seed in args.seeds[:1] if args.quick else args.seeds:
            row = have.setdefault(str(seed), {})
            if set(args.methods) - set(row):
                one_seed(args, codes, noise, seed, row)
            result = {
                "benchmark": "curriculum_classifier", "data": f"{args.samples} CIFAR-10 codes",
                "seeds": {name: sorted(map(int, rows)) for name, rows in runs.items()},
                "budget": f"{UPDATES} updates of {BATCH}; then equal sample-forwards, those of eight rounds of RCL",
                "versions": {"torch": torch.__version__},
                "figures": {name: tables(list(rows.values()), "rcl_8") for name, rows in runs.items() if rows},
                "runs": runs,
            }  # fmt: skip
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
