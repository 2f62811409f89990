"""LA3 where the answer is known: does a label-aware policy spare each class what would change its label?

    python -m benchmarks.la3_planted            the planted task, results/la3_planted.json
    python -m benchmarks.la3_planted --null     the same digits, no invariance depends on the label: la3_null.json

All arms train the same net on train + reward images. The arms that search pay for training the model that is
searched with and for the search's passes; the others train for as many epochs more as that comes to
(`long`), so that all arms have the same total in sample-forwards (backward = 2).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torchvision.transforms import v2

from benchmarks.la3_common import (
    accuracy,
    by_policy,
    by_torchvision,
    interval,
    planted_digits,
    random_policy,
    train,
    write,
)
from tamis._core.rng import numpy_generator
from tamis.search import search_label_aware
from tamis.search.label_aware import SPACE, build_policy
from tamis.search.optimizers.mrmr import counts
from tamis.search.optimizers.predictor import Predictor, PredictorConfig
from tamis.transforms.ops import IDENTITY, OPERATIONS

PREDICTOR = PredictorConfig(ensemble=3, width=50, epochs=60, batch=2048, max_rows=100_000)


def predictor_quality(journal: Path, groups: int) -> list[dict[str, float]]:
    """The thesis' figure 4.4: trained on 80 % of the trials so far, tested on the others."""
    records = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    table = torch.from_numpy(counts(SPACE, len(OPERATIONS)))
    found = []
    for upto in sorted({len(records) // 4, len(records) // 2, len(records)}):
        rows = [(int(p), g, r) for record in records[:upto]
                for g, (p, r) in enumerate(zip(record["point"], record["rewards"], strict=True))]  # fmt: skip
        order = numpy_generator(0, upto).permutation(len(rows))
        cut = int(0.8 * len(rows))
        sets, labels, rewards = (torch.tensor([rows[i][k] for i in order]) for k in range(3))
        fitted = Predictor(table, groups, PREDICTOR, silent=IDENTITY).fit(sets[:cut], labels[:cut], rewards[:cut])
        guess = fitted.predict()[labels[cut:], sets[cut:]]
        found.append({
            "iterations": upto,
            "spearman": float(spearmanr(guess, rewards[cut:])[0]),
            "mae": float((guess - rewards[cut:]).abs().mean()),
            "mae_of_the_mean": float((rewards[:cut].mean() - rewards[cut:]).abs().mean()),
        })  # fmt: skip
    return found


def one_seed(seed: int, null: bool, iterations: int, epochs: int) -> dict[str, Any]:
    parts, names = planted_digits(seed, null=null)
    both = tuple(torch.cat([a, b]) for a, b in zip(parts["train"], parts["reward"], strict=True))
    theta = train(parts["train"], len(names), epochs, seed)
    options = dict(classes=names, iterations=iterations, warmup=2 * iterations // 5, triples=60, seed=seed,
                   predictor=PREDICTOR, reward="probability")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        la3 = search_label_aware(theta, parts["reward"], out=folder, **options)
        quality = predictor_quality(Path(folder) / "journal.jsonl", len(names))
    shared = search_label_aware(theta, parts["reward"], label_aware=False, **options)
    paid = la3.search.budget["sample_forwards"] + 3 * len(parts["train"][0]) * epochs
    longer = epochs + math.ceil(paid / (3 * len(both[0])))
    randaugment, trivial = v2.RandAugment(), v2.TrivialAugmentWide()
    arms = {
        "la3": (epochs, by_policy(la3, seed)),
        "search without labels": (epochs, by_policy(shared, seed)),
        "top-k without mRMR": (epochs, by_policy(build_policy(la3, triples=60, alpha=0.0), seed)),
        "random triples, long": (longer, by_policy(random_policy(names, 60, seed), seed)),
        "RandAugment, long": (longer, by_torchvision(randaugment, seed)),
        "TrivialAugment, long": (longer, by_torchvision(trivial, seed)),
        "none, long": (longer, None),
    }
    if null:  # what the null experiment asks: does knowing the label gain where there is nothing to know?
        arms = {name: arms[name] for name in ("la3", "search without labels", "random triples, long", "none, long")}
    scores = {}
    for name, (rounds, augment) in arms.items():
        scores[name] = accuracy(train(both, len(names), rounds, seed, augment), parts["test"])
        print(f"seed {seed}  {name:24s} {scores[name]:.4f}", flush=True)
    shares = dict(zip(names, la3.shares().round(4).tolist(), strict=True))
    return {"scores": scores, "epochs": {"searching": epochs, "long": longer}, "predictor": quality, "shares": shares,
            "sample_forwards": paid + 3 * len(both[0]) * epochs}  # fmt: skip


def harmful_shares(runs: dict[str, Any]) -> dict[str, float]:
    """The share of the harmful operation in the policies of the classes it harms, and of the others."""
    found = {}
    for op, words in (("Invert", ("light", "dark")), ("TranslateX", ("left", "right"))):
        at = OPERATIONS.index(op)
        rows = [(any(word in name for word in words), shares[at]) for run in runs.values()
                for name, shares in run["shares"].items()]  # fmt: skip
        for harmed in (True, False):
            found[f"{op}, {'harmed' if harmed else 'other'} classes"] = float(
                np.mean([s for h, s in rows if h == harmed])
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one seed, a short search")
    parser.add_argument("--data", help="not needed: the digits come with scikit-learn")
    args = parser.parse_args()
    iterations, epochs = (12, 2) if args.quick else (100, 100)
    name = ("la3_null" if args.null else "la3_planted") + ("_quick" if args.quick else "")
    torch.set_num_threads(1)
    runs: dict[str, Any] = {}
    for seed in range(1 if args.quick else args.seeds):
        runs[str(seed)] = one_seed(seed, args.null, iterations, epochs)
        scores = {arm: [run["scores"][arm] for run in runs.values()] for arm in runs["0"]["scores"]}
        gains = {
            arm: interval([a - b for a, b in zip(scores["la3"], other, strict=True)])
            for arm, other in scores.items()
            if arm != "la3"
        }
        figures = {"mean accuracy": {arm: float(np.mean(values)) for arm, values in scores.items()},
                   "la3 minus": gains, "runs": runs}  # fmt: skip
        if not args.null:
            figures["share of the harmful operation"] = harmful_shares(runs)
        write(name, {
            "seeds": list(map(int, runs)), "data": "scikit-learn digits" + ("" if args.null else ", planted"),
            "budget": {"sample_forwards": runs["0"]["sample_forwards"]}, "figures": figures,
        })  # fmt: skip
    print(json.dumps({key: figures[key] for key in figures if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()
