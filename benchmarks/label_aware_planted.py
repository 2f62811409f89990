"""LA3 where the answer is known: does a label-aware policy spare each class what would change its label?

    python -m benchmarks.label_aware_planted            the planted task: results/label_aware_planted.json
    python -m benchmarks.label_aware_planted --null     nothing depends on the label: results/label_aware_null.json

Arms that search train for 60 epochs on the train and reward images together and have paid, besides, for the model
that the search judges with and for its passes. The arms named "long" train for as many epochs more as that comes to,
so that these have the same total in sample-forwards (a backward counts 2). "told" is random triples without the
operations that were planted as harmful: what knowing the answer is worth.

One seed takes about a minute of one core; seeds that are in the JSON already are kept.
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

from benchmarks.label_aware_common import (
    HARMFUL,
    NUISANCES,
    RESULTS,
    Augment,
    accuracy,
    by_policy,
    by_torchvision,
    gains,
    harmful,
    net,
    planted_digits,
    prepared,
    random_policy,
    train,
    write,
)
from tamis.core.rng import numpy_generator
from tamis.optimizers.mrmr import counts
from tamis.optimizers.predictor import Predictor, PredictorConfig
from tamis.search import search_label_aware
from tamis.search.label_aware.triples import SPACE
from tamis.transforms.images.ops import IDENTITY, OPERATIONS

PREDICTOR = PredictorConfig(ensemble=3, width=50, epochs=60, batch=2048, max_rows=100_000)
TRIPLES = 100


def predictor_quality(journal: Path, groups: int) -> dict[str, dict[str, float]]:
    """The thesis' figure 4.4: trained on the iterations so far, tested on the last fifth of them, never trained on.

    "within a class" is the mean over classes of the rank correlation among its own triples: the rest comes from
    classes that differ in how much any augmentation harms them.
    """
    records = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    order = numpy_generator(0, len(records)).permutation(len(records))  # the last iterations try only good triples
    sets, rewards = (torch.tensor([records[i][key] for i in order]) for key in ("point", "rewards"))
    sets, labels = sets.long(), torch.arange(groups).expand(len(records), -1)
    cut, table = int(0.8 * len(records)), torch.from_numpy(counts(SPACE, len(OPERATIONS)))
    held_sets, held = sets[cut:], rewards[cut:]
    found = {}
    for upto in sorted({max(1, round(cut * share)) for share in (0.125, 0.25, 0.5, 0.75, 1.0)}):
        rows = (sets[:upto].flatten(), labels[:upto].flatten(), rewards[:upto].flatten())
        guess = Predictor(table, groups, PREDICTOR, silent=IDENTITY).fit(*rows).predict()[labels[cut:], held_sets]
        found[f"{upto} iterations"] = {
            "Spearman": float(spearmanr(guess.flatten(), held.flatten())[0]),
            "within a class": float(np.mean([spearmanr(guess[:, g], held[:, g])[0] for g in range(groups)])),
            "MAE": float((guess - held).abs().mean()),
            "MAE of the mean": float((rewards[:upto].mean() - held).abs().mean()),
        }
    return found


def one_seed(seed: int, null: bool, iterations: int, epochs: int, only: str) -> dict[str, Any]:
    """The arms of one seed that search, the others, or all."""
    parts, names = planted_digits(seed, null=null)
    both = tuple(torch.cat([a, b]) for a, b in zip(parts["train"], parts["reward"], strict=True))
    paid = len(parts["reward"][0]) * (iterations + 1) + 3 * len(parts["train"][0]) * epochs
    longer = epochs + math.ceil(paid / (3 * len(both[0])))

    def fit(part: Any, rounds: int, augment: Augment | None = None) -> torch.nn.Module:
        return train(net(1, 16, len(names), seed), part, rounds, seed, augment)

    arms: dict[str, tuple[int, Augment | None]] = {}
    found: dict[str, Any] = {"epochs": {"searching": epochs, "long": longer}}
    found["sample_forwards"] = paid + 3 * len(both[0]) * epochs
    if only != "free":
        theta = fit(parts["train"], epochs)
        options = dict(classes=names, iterations=iterations, warmup=2 * iterations // 5, triples=TRIPLES, seed=seed,
                       predictor=PREDICTOR, reward="probability", prepare=prepared)  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            la3 = search_label_aware(theta, parts["reward"], out=folder, **options)
            found["predictor"] = predictor_quality(Path(folder) / "journal.jsonl", len(names))
        shared = search_label_aware(theta, parts["reward"], label_aware=False, **options)
        arms |= {"LA3": (epochs, by_policy(la3, seed)), "search without labels": (epochs, by_policy(shared, seed))}
        found["judging model"] = accuracy(theta, parts["test"])
        found["shares"] = dict(zip(names, la3.shares().round(4).tolist(), strict=True))
    if only != "searching":
        arms |= {"random triples, long": (longer, by_policy(random_policy(names, TRIPLES, seed), seed)),
                 "none, long": (longer, None)}  # fmt: skip
        if not null:
            arms |= {
                "RandAugment, long": (longer, by_torchvision(v2.RandAugment(), both[0], seed)),
                "TrivialAugment, long": (longer, by_torchvision(v2.TrivialAugmentWide(), both[0], seed)),
                "told, long": (longer, by_policy(random_policy(names, TRIPLES, seed, harmful), seed)),
            }
    found["scores"] = {}
    for name, (rounds, augment) in arms.items():
        found["scores"][name] = accuracy(fit(both, rounds, augment), parts["test"])
        print(f"seed {seed}  {name:24s} {found['scores'][name]:.4f}", flush=True)
    return found


def harmful_shares(runs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The share of the operations that change a nuisance, in the policies of classes it defines and of the others."""
    found = {}
    for words, operations in zip(NUISANCES, HARMFUL, strict=True):
        rows: dict[bool, list[float]] = {True: [], False: []}
        for run in runs.values():
            for name, shares in run.get("shares", {}).items():
                share = sum(shares[OPERATIONS.index(op)] for op in operations)
                rows[any(word in name for word in words)].append(share)
        found[", ".join(operations)] = {
            "share where harmful": float(np.mean(rows[True] or [0])), "elsewhere": float(np.mean(rows[False] or [0])),
            "at random": len(operations) / len(OPERATIONS),
        }  # fmt: skip
    return found


def mean_quality(runs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The predictor's figures, averaged over seeds."""
    curves = [run["predictor"] for run in runs.values() if "predictor" in run]
    return {
        upto: {key: float(np.mean([curve[upto][key] for curve in curves])) for key in values}
        for upto, values in (curves[0].items() if curves else ())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", choices=("searching", "free"), default="", help="one half of the arms")
    parser.add_argument("--quick", action="store_true", help="one seed, a short search")
    parser.add_argument("--data", help="not needed: the digits come with scikit-learn")
    args = parser.parse_args()
    iterations, epochs = (10, 2) if args.quick else (100, 60)
    name = ("label_aware_null" if args.null else "label_aware_planted") + ("_quick" if args.quick else "")
    torch.set_num_threads(1)
    file = RESULTS / f"{name}.json"  # a half is kept too
    runs = json.loads(file.read_text())["figures"]["runs"] if file.exists() and not args.quick else {}
    for seed in map(str, args.seeds[:1] if args.quick else args.seeds):
        half = runs.get(seed, {"scores": {}})
        missing = {"searching": "LA3", "free": "none, long"}
        for only in [args.only] if args.only else missing:
            if missing[only] not in half["scores"]:
                new = one_seed(int(seed), args.null, iterations, epochs, only)
                half = {**half, **new, "scores": {**half["scores"], **new["scores"]}}
        runs[seed] = half
        figures = {
            **gains(runs, "LA3"),
            "predictor on iterations it was not trained on": mean_quality(runs),
            "runs": runs,
        }
        if not args.null:
            figures["operations in LA3's policies"] = harmful_shares(runs)
        write(name, {
            "seeds": sorted(map(int, runs)),
            "data": "scikit-learn digits 0 to 5, " + ("null" if args.null else "planted"),
            "budget": {"sample_forwards": next(iter(runs.values()))["sample_forwards"], "iterations": iterations,
                       **next(iter(runs.values()))["epochs"]},
            "figures": figures,
        })  # fmt: skip
    print(json.dumps({key: figures[key] for key in figures if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()
