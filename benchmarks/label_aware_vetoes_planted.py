"""Vetoes on RandAugment where the answer is planted, and where nothing depends on the label.

    python -m benchmarks.label_aware_vetoes_planted            results/label_aware_vetoes_planted.json
    python -m benchmarks.label_aware_vetoes_planted --null     results/label_aware_vetoes_null.json

The planted digits of `label_aware_common`: for each class some of RandAugment's own operations turn it into another
class. The judges are two nets, each trained with RandAugment on one half of the images, which judge the other half;
they cost one training. "long" arms train for as many epochs more as the search cost; the others for as many as ours
did after its search. "told" is RandAugment without the operations that were planted as harmful.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import numpy as np
import torch

from benchmarks.label_aware_common import (
    RESULTS,
    accuracy,
    by_policy,
    gains,
    harmful,
    net,
    planted_digits,
    prepared,
    train,
    write,
)
from tamis.core.rng import numpy_generator
from tamis.search import search_label_aware
from tamis.transforms import MenuPolicy


def with_vetoes(names: tuple[str, ...], vetoes: np.ndarray) -> MenuPolicy:
    """RandAugment with these vetoes, bool [L, 14]."""
    return MenuPolicy(classes=names, base="randaugment", strengths=torch.from_numpy(~vetoes).float())


def one_seed(seed: int, null: bool, epochs: int) -> dict[str, Any]:
    """All arms of one seed."""
    parts, names = planted_digits(seed, null=null)
    order = numpy_generator(seed, 84).permutation(len(parts["train"][0]) + len(parts["reward"][0]))
    part = tuple(torch.cat([a, b])[order] for a, b in zip(parts["train"], parts["reward"], strict=True))
    test, plain, half = parts["test"], MenuPolicy.plain(names), torch.arange(len(order)) % 2

    def fit(images: Any, rounds: int, policy: MenuPolicy) -> torch.nn.Module:
        return train(net(1, 16, len(names), seed), images, rounds, seed, by_policy(policy, seed))

    judges = [fit((part[0][half != at], part[1][half != at]), epochs, plain) for at in range(2)]
    held = [(part[0][half == at], part[1][half == at]) for at in range(2)]
    found = search_label_aware(judges, held, trained_with="randaugment", prepare=prepared, classes=names, seed=seed)
    paid = found.search.budget["sample_forwards"] + 3 * len(order) * epochs
    longer = epochs + math.ceil(paid / (3 * len(order)))
    truth = np.array([[op in harmful(name) and not null for op in plain.names] for name in names])
    vetoes, rng = found.strengths.numpy() < 1, numpy_generator(seed, 85)
    other = [column[torch.from_numpy(rng.permutation(len(names)))] for column in found.strengths.T]
    shuffled = MenuPolicy(classes=names, base="randaugment", strengths=torch.stack(other, 1))
    arms = {
        "vetoes found": (epochs, found),
        "RandAugment": (epochs, plain),
        "RandAugment, long": (longer, plain),
        "random vetoes": (epochs, shuffled),
    }
    if not null:
        arms |= {"told": (epochs, with_vetoes(names, truth)), "told, long": (longer, with_vetoes(names, truth))}
    run: dict[str, Any] = {
        "epochs": {"vetoes found": epochs, "long": longer}, "search's sample_forwards": paid,
        "judges": [accuracy(judge, test) for judge in judges], "scores": {},
        "restricted pairs": {"found": int(vetoes.sum()), "harmful": int(truth.sum()),
                             "both": int((vetoes & truth).sum())},
        "restricted": {name: {op: round(float(s), 2) for op, s in zip(found.names, row, strict=True) if s < 1}
                       for name, row in zip(names, found.strengths, strict=True)},
    }  # fmt: skip
    for name, (rounds, policy) in arms.items():
        run["scores"][name] = accuracy(fit(part, rounds, policy), test)
        print(f"seed {seed}  {name:24s} {run['scores'][name]:.4f}", flush=True)
    print(run["restricted pairs"], flush=True)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13])
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
    parser.add_argument("--data", help="not needed: the digits come with scikit-learn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    epochs = 8 if args.quick else 60
    name = "label_aware_vetoes_" + ("null" if args.null else "planted") + ("_quick" if args.quick else "")
    file = RESULTS / f"{name}.json"
    runs = json.loads(file.read_text())["figures"]["runs"] if file.exists() and not args.quick else {}
    for seed in map(str, args.seeds[:1] if args.quick else args.seeds):
        if seed not in runs:
            runs[seed] = one_seed(int(seed), args.null, epochs)
        first = next(iter(runs.values()))
        write(name, {
            "seeds": sorted(map(int, runs)),
            "data": "scikit-learn digits 0 to 5, " + ("null" if args.null else "planted"),
            "budget": {"epochs": epochs, "epochs of long": first["epochs"]["long"],
                       "sample_forwards of the search": first["search's sample_forwards"]},
            "figures": {**gains(runs, "vetoes found"), "runs": runs},
        })  # fmt: skip
    print(json.dumps(gains(runs, "vetoes found"), indent=1))


if __name__ == "__main__":
    main()
