"""Does Swift Sampler find a law that ignores wrong labels? CIFAR-10 codes, symmetric noise, against its baselines.

``python -m benchmarks.swift_noise [--quick] [--go-on] [--at-most N] [--out FILE] [--data PATH]``. Per run (noise rate,
seed): 10,000 noisy training, 2,000 noisy validation and 10,000 clean test samples, all disjoint. Every method ends in
the same training from scratch and may use the validation data; the clean test data is only reported.

======================= ===============================================================================================
``uniform``             every sample once an epoch
``uniform_budget``      uniform restarts worth the search's cost; start and epoch chosen on validation
``trim``                the lowest-loss share, 8 shares x 5 trials on the same validation: as many trials as the search
``small_loss``          the lowest-loss 1 - noise of each batch, the true noise rate known (as in Co-teaching, one net)
``random``              40 random laws of the same space, the first uniform (noise 0.4 only)
``swift``               search_swift as in release 0.1 (``plain=False, repeats=0``; not the default): 40 trials of 5
                        epochs from w_share (the first is uniform), best trial
``swift_mean``          the same trials, the law chosen by the posterior mean in place of the raw score
``swift_cdf``           search_swift with T = cdf (noise 0.4 only)
``oracle``              only right labels
======================= ===============================================================================================

Budget: ``swift``, ``random``, ``swift_cdf`` and ``trim`` each train 4 (w_share) + 40 x 5 (trials) + 20 (final) = 224
epochs, ``uniform_budget`` 11 x 20 = 220; the others only their last 20.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import swift_common as common
from tamis.samplers import SwiftSampler
from tamis.samplers.swift.sampler import FeatureTables
from tamis.search import search_swift
from tamis.search.swift import law_of

RESULT = Path(__file__).parent / "results" / "swift_noise.json"
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
RUNS = [(0.4, s) for s in range(10, 18)]  # 0 to 4 chose the default optimizer, 100 and above were for looking around
DONE = {"swift", "trim"}  # what a finished run has
RUNS += [(noise, s) for s in range(10, 15) for noise in (0.0, 0.2)]


def posterior_mean_choice(records: list[dict[str, Any]]) -> int:
    """The trial that a Gaussian process with fitted noise believes to be the best."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (0.1, 10.0)) * RBF(0.5, (0.05, 10.0)) + WhiteKernel(0.1, (1e-5, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=1, random_state=0)
    points = np.array([r["point"] for r in records])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        process.fit(points, [r["score"] for r in records])
    return int(process.predict(points).argmax())


def run(
    codes: dict[str, np.ndarray], noise: float, seed: int, trials: int, known: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One run's methods; those in ``known`` are kept (each is a function of noise and seed alone)."""
    task = common.make_task(codes, noise, seed)
    net, features, auc = common.shared_weights(task)
    tables = FeatureTables(features)
    fit = common.fit_from(net, task)
    rows: dict[str, Any] = {"w_share_auc": auc, **(known or {})}

    def search(name: str, **options: Any) -> list[dict[str, Any]]:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as out:
            policy = search_swift(
                fit, features, model=net, trials=trials, seed=seed, out=out, plain=False, repeats=0, **options
            )
            lines = (Path(out) / "journal.jsonl").read_text().splitlines()[1:]
        records = [json.loads(line) for line in lines]
        rows[name] = common.final(task, SwiftSampler(policy, features, seed=seed))
        p = policy.weights(features).numpy()
        rows[name] |= {
            "law": [round(v, 4) for v in policy.law.to_vector()],
            "drawn_wrong": float(p[~task.clean].sum()),
            "ess_share": float(1 / (p**2).sum() / len(p)),
            "cpu_s": round(time.process_time() - start, 1),
            "sample_forwards": policy.search.budget["sample_forwards"],
            "uniform_trial": policy.search.config["uniform_score"],
            "trials": [record["score"] for record in records],
        }
        return records

    if "swift" not in rows:
        records = search("swift")
        law = law_of(np.array(records[posterior_mean_choice(records)]["point"]))
        rows["swift_mean"] = common.final(task, SwiftSampler(tables.policy(law), features, seed=seed))
    if noise == 0.4 and "random" not in rows:
        search("random", optimizer="random")
    if noise == 0.4 and "swift_cdf" not in rows:
        search("swift_cdf", transform="cdf")
    if "trim" not in rows:
        baselines(rows, task, net, tables.cdfs[0], fit, trials)
    return rows


def baselines(
    rows: dict[str, Any], task: common.Task, net: torch.nn.Module, rank: np.ndarray, fit: Any, trials: int
) -> None:
    """Add ``trim``, ``small_loss``, ``oracle``, ``uniform`` and ``uniform_budget``; ``rank`` is that of the loss."""
    noise, seed = task.noise, task.seed
    scores = []
    shared = {k: v.clone() for k, v in net.state_dict().items()}
    for share in SHARES:
        repeats = []
        for repeat in range(max(1, trials // len(SHARES))):
            net.load_state_dict(shared)
            repeats.append(fit(common.weighted((rank <= share) * 1.0, seed + 1000 * repeat)))
        scores.append(float(np.mean(repeats)))
    share = SHARES[int(np.argmax(scores))]
    rows["trim"] = {"share": share, **common.final(task, common.weighted((rank <= share) * 1.0, seed))}

    def small_loss(loss: torch.Tensor, epoch: int) -> torch.Tensor:
        keep = round(len(loss) * (1 - noise * min(1.0, epoch / 5)))
        return loss.topk(keep, largest=False).values.mean()

    rows["small_loss"] = common.final(task, common.uniform(task, seed), keep=small_loss)
    rows["oracle"] = common.final(task, common.weighted(task.clean * 1.0, seed))
    restarts = 1 + trials * common.TRIAL_EPOCHS // common.FINAL_EPOCHS
    starts = [common.final(task, common.uniform(task, seed + 100 * k), seed=seed + 100 * k) for k in range(restarts)]
    rows["uniform"] = starts[0]
    best = max(starts, key=lambda row: row["valid"])
    rows["uniform_budget"] = {**best, "last": best["stopped"], "restarts": restarts}


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and paired differences of swift to every other method, by noise rate."""
    result: dict[str, Any] = {}
    runs = [r for r in runs if r["methods"].keys() >= DONE]
    for noise in sorted({r["noise"] for r in runs}):
        rows = [r["methods"] for r in runs if r["noise"] == noise]
        names = [name for name in rows[0] if name != "w_share_auc"]
        acc = {n: [row[n]["last"] for row in rows] for n in names}
        block = {
            "seeds": len(rows),
            "w_share_auc": round(float(np.mean([row["w_share_auc"] for row in rows])), 4),
            "accuracy": {n: round(float(np.mean(v)), 4) for n, v in acc.items()},
            "accuracy_early_stopped": {n: round(float(np.mean([r[n]["stopped"] for r in rows])), 4) for n in names},
            "swift_minus": {n: common.paired(acc["swift"], v) for n, v in acc.items() if n != "swift"},
        }
        gap = np.mean(acc["oracle"]) - np.mean(acc["uniform"])
        if noise > 0:
            block["gap_closed"] = {
                n: round(float((np.mean(v) - np.mean(acc["uniform"])) / gap), 3)
                for n, v in acc.items()
                if n not in ("uniform", "oracle")
            }
        result[f"noise_{noise}"] = block
    return result


def table(figures: dict[str, Any]) -> str:
    """The card's table: clean test accuracy in %, and swift minus the method with its 95 % interval in points."""
    columns = [(name.removeprefix("noise_"), block) for name, block in figures.items()]
    lines = ["| method | " + " | ".join(f"noise {noise}, {b['seeds']} seeds | swift minus it" for noise, b in columns)]
    lines = [lines[0] + " |", "|---" * (1 + 2 * len(columns)) + "|"]
    for name in max((block["accuracy"] for _, block in columns), key=len):
        cells = []
        for _, block in columns:
            mean, difference = block["accuracy"].get(name), block["swift_minus"].get(name)
            cells.append("" if mean is None else f"{100 * mean:.1f}")
            known = difference is not None and difference["n"] > 1
            cells.append(f"{100 * difference['mean']:+.1f} ± {100 * difference['half_width_95']:.1f}" if known else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=common.DATA)
    parser.add_argument("--quick", action="store_true", help="one seed, 9 trials; writes nothing")
    parser.add_argument("--go-on", action="store_true", help="keep the methods that the result file has already")
    parser.add_argument("--at-most", type=int, default=len(RUNS), metavar="N", help="stop after N new runs")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    parser.add_argument("--table", action="store_true", help="only print the result file as a table")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.out.read_text())["figures"]))
        return
    torch.set_num_threads(1)
    codes = common.encoded(options.data)
    trials = 9 if options.quick else 40
    runs: list[dict[str, Any]] = []
    if options.go_on and options.out.exists():
        runs = json.loads(options.out.read_text())["runs"]
    known = {(r["noise"], r["seed"]): r["methods"] for r in runs}
    wanted = [key for key in RUNS if not known.get(key, {}).keys() >= DONE]
    for noise, seed in [(0.4, 10)] if options.quick else wanted[: options.at_most]:
        start = time.process_time()
        runs = [r for r in runs if (r["noise"], r["seed"]) != (noise, seed)]
        runs.append(
            {"noise": noise, "seed": seed, "methods": run(codes, noise, seed, trials, known.get((noise, seed)))}
        )
        runs[-1]["cpu_s"] = round(time.process_time() - start, 1)
        last = {n: round(v["last"], 4) for n, v in runs[-1]["methods"].items() if isinstance(v, dict)}
        print(noise, seed, round(runs[-1]["methods"]["w_share_auc"], 3), last, f"{runs[-1]['cpu_s']} s", flush=True)
        if not options.quick:
            result = {
                "benchmark": "swift_noise",
                "seeds": sorted({r["seed"] for r in runs}),
                "data": "cifar10, 10,000 train, 2,000 validation (noisy), 10,000 test (clean); patch codes and an MLP",
                "budget": {"trials": trials, "trial_epochs": common.TRIAL_EPOCHS, "final_epochs": common.FINAL_EPOCHS},
                "versions": common.versions(),
                "figures": figures(runs),
                "runs": runs,
            }
            common.write(options.out, result)
    print(json.dumps(figures(runs), indent=1))


if __name__ == "__main__":
    main()
