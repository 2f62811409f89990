"""Better numbers per sample, or a better law over them? CIFAR-10 codes with wrong labels, and with a long tail.

``python -m benchmarks.swift_features [--at-most N] [--out FILE] [--data PATH]``. Two settings, each run from a seed of
its own; every method ends in the same training from scratch (20 epochs) and chooses by the same noisy validation data;
the clean, balanced test data is only reported.

- ``noise_R``: 10,000 training and 2,000 validation samples, a share R of the labels wrong; test accuracy.
- ``tail``: as many, class sizes falling 20:1, 30 % of the labels replaced by those of other random samples (so that
  noise keeps the class sizes); macro recall on test data.

======================= ===============================================================================================
``uniform``             every sample once an epoch
``balanced``            every class equally often (tail)
``trim_loss``           `search_trim` on the early model's loss, 8 shares x 5 runs (noise)
``trim``                `search_trim` on ``consensus_loss``, 8 shares x 4 runs
``trim_balanced``       the same with balanced draws (tail)
``trim_in_class``       the same within classes, balanced (tail)
``swift``               `search_swift` over the consensus (tail: and its rank within the class, and the class'
                        frequency), 32 trials, the first of them the plain laws
``swift_confirmed``     the same, 26 trials scored on one half of the validation data, three laws confirmed on the other
                        (noise)
``oracle``              only right labels (tail: balanced)
======================= ===============================================================================================

Budget in epochs of training, the final one included: ``trim_loss`` 4 + 40 x 5 + 20 = 224; the others that search at
most 4 + 37 (consensus: 4 folds of 6 epochs, twice, and 8 epochs of trajectory) + 32 x 5 + 20 = 221.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from benchmarks import swift_common as common
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import numpy_generator
from tamis.features import LossTrajectory, class_frequency, consensus_loss, rank_in_class
from tamis.features.table import FeatureTable
from tamis.samplers import BalancedSampler, SwiftSampler
from tamis.search import search_swift, search_trim

RESULT = Path(__file__).parent / "results" / "swift_features.json"
SEEDS = range(20, 25)
RUNS = [(name, seed) for seed in SEEDS for name in ("noise_0.4", "tail")]
RUNS += [(name, seed) for name in ("noise_0.2", "noise_0.0") for seed in SEEDS]
RATIO, TAIL_NOISE = 20, 0.3
FOLDS, FIT_EPOCHS, TRAJECTORY_EPOCHS = 4, 6, 8


def tail_task(codes: dict[str, np.ndarray], seed: int, train: int = 10_000, valid: int = 2_000) -> common.Task:
    """Class sizes falling geometrically 20:1, in an order drawn by ``seed``; wrong labels are those of others."""
    rng = numpy_generator(seed, 19)
    sizes = RATIO ** -(np.arange(10) / 9)
    picks: list[list[np.ndarray]] = [[], []]
    for rank, label in enumerate(rng.permutation(10)):
        mine = rng.permutation(np.flatnonzero(codes["train_y"] == label))
        counts = [int(sizes[rank] / sizes.sum() * total) for total in (train, valid)]
        picks[0].append(mine[: counts[0]])
        picks[1].append(mine[counts[0] : sum(counts)])
    parts, clean = [], np.empty(0)
    for number, part in enumerate(picks):
        index = rng.permutation(np.concatenate(part))
        labels = codes["train_y"][index]
        flip = rng.random(len(labels)) < TAIL_NOISE
        noisy = np.where(flip, labels[rng.permutation(len(labels))], labels)
        parts.append(TensorDataset(torch.from_numpy(codes["train_x"][index, -common.CODE :]), torch.from_numpy(noisy)))
        clean = noisy == labels if number == 0 else clean
    test = TensorDataset(torch.from_numpy(codes["test_x"][:, -common.CODE :]), torch.from_numpy(codes["test_y"]))
    return common.Task(parts[0], parts[1], test, clean, TAIL_NOISE, seed)


def macro_recall(net: torch.nn.Module, data: TensorDataset) -> float:
    """Mean over the classes of the share that is found."""
    net.eval()
    x, y = data.tensors
    with torch.no_grad():
        hit = (net(x).argmax(1) == y).double()
    net.train()
    return float(np.mean([float(hit[y == label].mean()) for label in y.unique()]))


def half(data: TensorDataset, start: int) -> TensorDataset:
    """Every second sample."""
    return TensorDataset(*(t[start::2] for t in data.tensors))


def measured(task: common.Task) -> tuple[torch.nn.Module, FeatureTable, dict[str, float]]:
    """w_share and the features of the training data; how well each tells wrong labels (AUC)."""
    net, features, early = common.shared_weights(task)
    trajectory, followed = LossTrajectory(len(task.train)), common.make_net(task.seed + 1)
    x, y = task.train.tensors
    order = common.uniform(task, task.seed + 1)

    def fit(indices: list[int], seed: int) -> torch.nn.Module:
        part = TensorDataset(x[indices], y[indices])
        made = common.make_net(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)
            sampler = common.WeightedSampler(np.ones(len(part)), replacement=False, seed=seed)
        common.train(made, part, sampler, FIT_EPOCHS)
        return made

    optimizer = torch.optim.SGD(followed.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for epoch in range(TRAJECTORY_EPOCHS):
        order.set_epoch(epoch)
        for batch in torch.from_numpy(np.concatenate(list(order.arrays()))).split(common.BATCH):
            logits = followed(x[batch])
            trajectory.update(batch, logits, y[batch])
            optimizer.zero_grad()
            F.cross_entropy(logits, y[batch]).backward()
            optimizer.step()
    features = features.with_columns(trajectory.columns())
    features = consensus_loss(task.train, fit, features=features, also=("mean_loss",), folds=FOLDS, seed=task.seed)
    names = ("loss", "mean_loss", "out_of_fold_loss", "second_loss", "consensus_loss")
    aucs = {name: common.auc(features[name].numpy(), ~task.clean) for name in names}
    aucs["margin"] = common.auc(-features["margin"].numpy(), ~task.clean)
    return net, features, {**aucs, "early": early}


def run(codes: dict[str, np.ndarray], name: str, seed: int) -> dict[str, Any]:
    """One run's methods."""
    tail = name == "tail"
    task = tail_task(codes, seed) if tail else common.make_task(codes, float(name.removeprefix("noise_")), seed)
    score = macro_recall if tail else common.accuracy
    net, features, aucs = measured(task)
    labels = task.train.tensors[1]
    columns = {"consensus": features["consensus_loss"], "gradient": features["gradient"]}
    if tail:  # the first column is the one that the first laws trim by
        columns = {"in_class": rank_in_class(features["consensus_loss"], labels), **columns}
        columns["class_frequency"] = class_frequency(labels)
    table = FeatureTable({**columns, "loss": features["loss"]}, fingerprint=features.fingerprint)
    law_columns = table.select_columns(list(columns))
    rows: dict[str, Any] = {"auc": aucs}

    def on(data: TensorDataset) -> Any:
        def fit(sampler: Any) -> float:
            common.train(net, task.train, sampler, common.TRIAL_EPOCHS)
            return score(net, data)

        return fit

    def final(method: str, sampler: Any, **facts: Any) -> None:
        made = common.make_net(common.seed_of(seed, 9))
        common.train(made, task.train, sampler, common.FINAL_EPOCHS)
        rows[method] = {"last": score(made, task.test), **facts}

    def searched(method: str, search: Any, *arguments: Any, **options: Any) -> None:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)
            policy = search(*arguments, model=net, seed=seed, **options)
            sampler = SwiftSampler(policy, table, seed=seed)
        facts = {k: v for k, v in policy.search.config.items() if k in ("share", "score_noise", "uniform_score")}
        final(method, sampler, score=policy.search.score, trials=policy.search.budget["trials"], **facts,
              balance=policy.law.balance, cpu_s=round(time.process_time() - start, 1),
              kept_wrong=float(policy.weights(table)[torch.from_numpy(~task.clean)].sum()))  # fmt: skip

    final("uniform", common.uniform(task, seed))
    fit = on(task.valid)
    if not tail:
        searched("trim_loss", search_trim, fit, table, "loss", repeats=5)
    searched("trim", search_trim, fit, table, "consensus", repeats=4)
    if tail:
        final("balanced", BalancedSampler(labels, seed=seed))
        searched("trim_balanced", search_trim, fit, table, "consensus", repeats=4, balance=(1.0,))
        searched("trim_in_class", search_trim, fit, table, "in_class", repeats=4, balance=(1.0,))
    searched("swift", search_swift, fit, law_columns, trials=32, repeats=0)
    if not tail:
        searched("swift_confirmed", search_swift, on(half(task.valid, 0)), law_columns, trials=26, repeats=2,
                 confirm=on(half(task.valid, 1)))  # fmt: skip
    right = task.clean * (class_frequency(labels).numpy() ** -1.0 if tail else 1.0)
    final("oracle", common.weighted(right, seed))
    return rows


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, AUCs, and paired differences of the laws to the other methods, by setting."""
    result: dict[str, Any] = {}
    for name in dict.fromkeys(r["setting"] for r in runs):
        rows = [r["methods"] for r in runs if r["setting"] == name]
        scores = {m: [row[m]["last"] for row in rows] for m in rows[0] if m != "auc"}
        gap = float(np.mean(scores["oracle"]) - np.mean(scores["uniform"]))
        block: dict[str, Any] = {"facts": {"seeds": len(rows)}, "auc": {
            k: round(float(np.mean([row["auc"][k] for row in rows])), 4) for k in rows[0]["auc"]}}  # fmt: skip
        for m, values in scores.items():
            block[m] = {"score": round(float(np.mean(values)), 4)}
            if name != "noise_0.0":
                block[m]["gap_closed"] = round(float((np.mean(values) - np.mean(scores["uniform"])) / gap), 3)
            for law in ("swift", "swift_confirmed", "trim"):
                if m != law and law in scores:
                    d = common.paired(scores[law], values)
                    low, high = d["mean"] - d["half_width_95"], d["mean"] + d["half_width_95"]
                    block[m][f"{law} minus it"] = d["mean"]
                    block[m][f"{law}, 95 %"] = [round(low, 4), round(high, 4)] if d["n"] > 1 else None
        result[name] = block
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=common.DATA)
    parser.add_argument("--at-most", type=int, default=len(RUNS), metavar="N", help="stop after N new runs")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file; runs in it are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    codes = common.encoded(options.data)
    runs: list[dict[str, Any]] = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    known = {(r["setting"], r["seed"]) for r in runs}
    for name, seed in [key for key in RUNS if key not in known][: options.at_most]:
        start = time.process_time()
        runs.append({"setting": name, "seed": seed, "methods": run(codes, name, seed)})
        runs[-1]["cpu_s"] = round(time.process_time() - start, 1)
        last = {n: round(v["last"], 4) for n, v in runs[-1]["methods"].items() if "last" in v}
        print(name, seed, runs[-1]["methods"]["auc"], last, f"{runs[-1]['cpu_s']} s", flush=True)
        result = {
            "benchmark": "swift_features",
            "seeds": sorted({r["seed"] for r in runs}),
            "data": "cifar10 patch codes and an MLP; 10,000 train and 2,000 validation (noisy), 10,000 test (clean)",
            "budget": {"epochs": 224, "trial_epochs": common.TRIAL_EPOCHS, "final_epochs": common.FINAL_EPOCHS},
            "versions": common.versions(),
            "figures": figures(runs),
            "runs": runs,
        }
        common.write(options.out, result)


if __name__ == "__main__":
    main()
