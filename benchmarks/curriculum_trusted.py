"""Given trusted data, does selecting the rest add anything to training on it? CIFAR-10 codes, 30 % wrong labels.

The task, the model and the two budgets of `curriculum_classifier` (equal updates; then equal sample-forwards), with the
rivals that own the same trusted data:

================= ==================================================================================================
``random``        continued on random training samples
``trusted``       continued on the trusted samples only
``random_mix``    random training samples, a quarter of each update trusted
``denoising``     one of 4 by `loss_changes`, the fall of the loss as copies are tuned on the trusted data
``denoising_mix`` the same, a quarter of each update trusted
``agent``         one of 4 by an agent of `search_curriculum` with these falls as rewards
``agent_mix``     the same, a quarter of each update trusted
================= ==================================================================================================
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset

from benchmarks import curriculum_classifier as classifier
from benchmarks.curriculum_common import Run, equal_budgets, stream, tables
from benchmarks.swift_common import DATA, auc, encoded
from tamis.core.rng import numpy_generator, seed_of
from tamis.search import AgentConfig, loss_changes, search_curriculum
from tamis.search.curriculum.gradient import mean_loss

METHODS = ("random", "trusted", "random_mix", "denoising", "denoising_mix", "agent", "agent_mix")
PASSES, MIX, POOL = 4, 4, 4  # every fourth sample of a mix is a trusted one


class MixedRun(Run):
    """A `Run` where every ``MIX``-th sample (or every one) is a trusted one: those stand behind the training data."""

    def __init__(self, run, trusted, first, every, seed):
        self.__dict__.update(run.__dict__)
        self.trusted, self.first, self.mix, self.seed, self.fed = trusted, first, every, seed, 0

    def go(self, indices, updates, patience=None):
        return super().go(lambda at, count: self.mixed(indices(at, count)), updates, patience)

    def mixed(self, picks):
        places = np.arange(0, len(picks), self.mix)
        numbers = self.fed + np.arange(len(places))
        orders = {n: numpy_generator(self.seed, int(n), 7).permutation(self.trusted) for n in numbers // self.trusted}
        picks = picks.copy()
        picks[places] = [self.first + orders[n // self.trusted][n % self.trusted] for n in numbers]
        self.fed += len(places)
        return picks


def run_method(name, base, optimizer, parts, seed):
    train, trusted, selection, test, clean = parts
    both = TensorDataset(*(torch.cat(pair) for pair in zip(train.tensors, trusted.tensors, strict=True)))
    n = len(train)
    run = classifier.continued(copy.deepcopy(base), optimizer, both, selection, classifier.LR)
    if name == "trusted" or name.endswith("_mix"):
        run = MixedRun(run, len(trusted), n, 1 if name == "trusted" else MIX, seed)

    def scores_of(model, number, pool):
        kind = name.removesuffix("_mix")
        if kind in ("random", "trusted"):
            return torch.zeros(n), 0
        if kind == "denoising":
            changes = loss_changes(model, train, trusted, passes=PASSES, loss="classifier", batch_size=2048, seed=seed)
            facts["auc"] = auc(-changes.numpy(), ~clean)
            return changes, 3 * n + len(trusted) * (1 + 12 * PASSES)
        table = classifier.features_of(model, train)
        agent = AgentConfig(steps=400, warm_up=40, hidden=(64, 64), trailing=100)
        policy = search_curriculum(
            model, train, selection, table, selection=Subset(selection, range(2)), trusted=trusted, rounds=(pool,),
            update=None, agent=agent, tune_passes=PASSES, seed=seed_of(seed, number), batch_size=2048,
            loss="classifier",
        )  # fmt: skip
        facts["auc"] = auc(-policy(table).numpy(), ~clean)
        return policy(table), policy.search.budget["sample_forwards"] + n

    def measure(model):
        with torch.no_grad():
            right = model(test.tensors[0]).argmax(1) == test.tensors[1]
        return {"test loss": mean_loss(model, classifier.whole(test), classifier.LOSS),
                "test accuracy": float(right.float().mean())}  # fmt: skip

    facts = {}
    row = equal_budgets(
        run, (1,) if name.startswith(("random", "trusted")) else (POOL,), scores_of, measure,
        np.concatenate([clean, np.ones(len(trusted), bool)]), updates=classifier.UPDATES,
        budget=5 * n + len(trusted) * (1 + 12 * PASSES), each=3 * classifier.BATCH + len(selection) / classifier.EVERY,
        seed=seed,
    )  # fmt: skip
    return {**row, **facts}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trusted", type=int, nargs="+", default=[500, 100])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curriculum_trusted.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codes = encoded(args.data)
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else {}
    for count in args.trusted:
        have = runs.setdefault(f"{count} trusted samples", {})
        for seed in args.seeds:
            if str(seed) in have:
                continue
            parts, model = list(classifier.task(codes, seed, 0.3, 3000)), classifier.new_model(seed)
            run = classifier.continued(model, None, parts[0], parts[2], 1e-3, batch=64)
            run.go(stream(torch.zeros(3000), 1, seed), 4000, patience=12)
            run.be(run.kept)
            parts[1] = TensorDataset(*(t[:count] for t in parts[1].tensors))
            row = {name: run_method(name, model, run.optimizer, parts, seed) for name in METHODS}
            print(count, seed, {k: round(v["test loss (equal updates)"], 4) for k, v in row.items()}, flush=True)
            have[str(seed)] = row
            result = {
                "benchmark": "curriculum_trusted", "data": "3,000 CIFAR-10 codes, 30 % wrong labels",
                "seeds": {name: sorted(map(int, rows)) for name, rows in runs.items()},
                "budget": f"{classifier.UPDATES} updates of {classifier.BATCH}; then equal sample-forwards",
                "versions": {"torch": torch.__version__},
                "figures": {name: tables(list(rows.values()), "random_mix", "denoising_mix")
                            for name, rows in runs.items() if rows},
                "runs": runs,
            }  # fmt: skip
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
