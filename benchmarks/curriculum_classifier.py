"""Claim under test: re-selected samples improve a trained classifier more than random continuation does.

CIFAR-10 codes (see `swift_common`), an MLP trained on 30 % wrong labels until its selection loss stops falling, then
continued by each method with the same stopping rule; ``random_budget`` has as many further updates as the dearest
search costs. ``noise=0`` is the null experiment: nothing to find.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.swift_common import DATA, encoded
from tamis._core.rng import numpy_generator, seed_of, torch_generator
from tamis.samplers import CurriculumFeatures, CurriculumSampler, LogLikelihood, LossDifference, log_likelihoods
from tamis.samplers.curriculum_gradient import mean_loss, rewards_by
from tamis.samplers.curriculum_loss import make_batch, sample_loss_of
from tamis.search import search_curriculum
from tamis.search.optimizers import AgentConfig

CODE, HIDDEN, BATCH, EVERY, PATIENCE, UPDATES = 128, 64, 16, 25, 8, 600
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


def proceed(model, optimizer, train, selection, indices, updates, batch=BATCH, patience=PATIENCE):
    """Train until the selection loss stops falling, then go back to the best weights: (updates done, indices used)."""
    best, kept, bad, done = mean_loss(model, whole(selection), LOSS), copy.deepcopy(model.state_dict()), 0, 0
    state = copy.deepcopy(optimizer.state_dict())
    used = []
    for at in range(0, updates, EVERY):
        picks = indices(at * batch, EVERY * batch)
        used.append(picks)
        for part in np.split(picks, EVERY):
            total, _ = LOSS(model, make_batch(train, part, None, model))
            optimizer.zero_grad()
            total.mean().backward()
            optimizer.step()
        done = at + EVERY
        now = mean_loss(model, whole(selection), LOSS)
        if now < best:
            best, kept, bad = now, copy.deepcopy(model.state_dict()), 0
            state = copy.deepcopy(optimizer.state_dict())
        else:
            bad += 1
            if bad >= patience:
                break
    model.load_state_dict(kept)
    optimizer.load_state_dict(state)
    return done, np.concatenate(used)


def stream(scores, pool, seed):
    def indices(at, count):
        sampler = CurriculumSampler(scores, pool=pool, num_samples=at + count, seed=seed)
        return np.concatenate(list(sampler.indices(0, at)))

    return indices


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
    return CurriculumFeatures(groups, {name: columns[name] for name in groups})


def agent_of(reward, steps):
    observe = "all" if reward == "first_order" else "chosen"
    return AgentConfig(steps=steps, warm_up=steps // 10, hidden=(64, 64), observe=observe, trailing=steps // 4)


def run_method(name, base, optimizer, parts, seed, steps):
    train, held, selection, test, clean = parts
    model = copy.deepcopy(base)
    continued = torch.optim.Adam(model.parameters(), lr=1e-3)
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    continued.param_groups[0]["lr"] = LR
    n, start, cost, done, used = len(train), time.process_time(), 0, 0, []

    def go(scores, pool, number=0, updates=UPDATES):
        nonlocal done
        more, picks = proceed(model, continued, train, selection, stream(scores, pool, seed_of(seed, number)), updates)
        done += more
        used.append(picks)

    def second(lr, epochs, fresh):
        other = new_model(seed + 100) if fresh else copy.deepcopy(model)
        adam = torch.optim.Adam(other.parameters(), lr=lr)
        data, order = held, numpy_generator(9, seed)
        proceed(other, adam, data, selection, lambda at, k: order.integers(0, len(data), k), epochs, 32, 4)
        return torch.from_numpy(log_likelihoods(other, train, batch_size=2048)), epochs * 32 * 3 + n

    if name == "random":
        go(torch.zeros(n), 1)
    elif name == "random_budget":
        go(torch.zeros(n), 1, updates=UPDATES + (2 * n + 3 * len(held) + 16 * 503) * 2 // (3 * BATCH) // EVERY * EVERY)
    elif name == "lowest_loss":
        go(LogLikelihood()(features_of(model, train)), 16)
        cost = n
    elif name in ("rho", "denoising"):
        values, cost = second(1e-3, 1000, True) if name == "rho" else second(3e-4, 200, False)
        cost += n
        go(LossDifference("second")(features_of(model, train).with_group("second", values, COLUMNS)), 16)
    elif name == "alignment":
        measure = rewards_by("first_order", model, lambda: whole(held), 1e-4, LOSS)
        go(torch.from_numpy(measure([train.tensors])), 16)
        cost = 2 * n + 3 * len(held)
    else:
        reward = "exact" if "exact" in name else "first_order"
        for number, pool in enumerate((16, 128) if name.endswith("2") else (16,)):
            table = features_of(model, train)
            policy = search_curriculum(
                model, train, held, table, selection=selection, reward=reward, rounds=(pool,), update=None,
                agent=agent_of(reward, steps), seed=seed, batch_size=2048, loss="classifier",
            )  # fmt: skip
            cost += policy.search.budget["sample_forwards"] + n
            go(policy(table), pool, number)
    picks = np.concatenate(used)
    with torch.no_grad():
        accuracy = float((model(test.tensors[0]).argmax(1) == test.tensors[1]).float().mean())
    return {
        "test_loss": mean_loss(model, whole(test), LOSS), "test_accuracy": accuracy, "updates": done,
        "clean_among_selected": float(clean[picks].mean()), "distinct": len(set(picks.tolist())) / len(picks),
        "sample_forwards": cost + 3 * BATCH * done, "cpu_seconds": time.process_time() - start,
    }  # fmt: skip


METHODS = (
    "random", "random_budget", "lowest_loss", "rho", "denoising", "alignment", "rcl_first_order_1",
    "rcl_first_order_2", "rcl_exact_chosen_1",
)  # fmt: skip


def paired(rows, method, against, key):
    """Mean difference over the seeds and its 95 % interval (Student's t)."""
    d = np.array([row[method][key] - row[against][key] for row in rows])
    if len(d) < 2:
        return {"mean": float(d.mean())}
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}[len(d)]
    half = quantile * d.std(ddof=1) / len(d) ** 0.5
    return {"mean": float(d.mean()), "low": float(d.mean() - half), "high": float(d.mean() + half)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curriculum_classifier.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codes, n = encoded(args.data), 3000 if args.quick else args.samples
    figures = {}
    for noise in (0.3, 0.0):
        rows = []
        for seed in range(1 if args.quick else args.seeds):
            parts = task(codes, seed, noise, n)
            model = new_model(seed)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            proceed(model, optimizer, parts[0], parts[2], stream(torch.zeros(n), 1, seed), 4000, 64, 12)
            base = {"test_loss": mean_loss(model, whole(parts[3]), LOSS)}
            rows.append(
                {
                    name: run_method(name, model, optimizer, parts, seed, 300 if args.quick else args.steps)
                    for name in args.methods
                }
            )
            rows[-1]["before"] = base
            print(noise, seed, {k: round(v["test_loss"], 4) for k, v in rows[-1].items()}, flush=True)
            figures[f"noise_{noise}"] = {
                "per_seed": rows,
                "mean": {
                    name: {key: float(np.mean([row[name][key] for row in rows])) for key in rows[0][name]}
                    for name in args.methods
                },
                "test_loss_against": {
                    other: {name: paired(rows, name, other, "test_loss") for name in args.methods if name != other}
                    for other in {"random_budget", "alignment"} & set(args.methods)
                },
            }
            result = {"benchmark": "curriculum_classifier", "seeds": seed + 1, "data": "CIFAR-10 codes"}
            result |= {
                "samples": n,
                "agent_steps": args.steps,
                "budget": "sample_forwards per method",
                "versions": {"torch": torch.__version__},
            }
            args.out.write_text(json.dumps({**result, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
