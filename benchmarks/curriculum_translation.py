"""Claim under test: the reinforced curriculum improves a trained translation model more than other choices do.

A small transformer is trained until its selection loss stops falling, at the last of three learning rates too; then
each method continues it from that state (weights and Adam): first ``UPDATES`` updates each ("equal updates"), then as
many more as make the sample-forwards of all methods equal to those of the dearest, ``rcl_ahead``, with the search and
the looks at the selection data, a backward pass counting as two ("equal forwards"). The model at the lowest selection
loss is measured. A seed is a draw of training pairs, noise, held-out split, pre-trained model, agents and orders.

Corpora: ``multi30k`` de-en with 30 % of the training targets shuffled, ``multi30k_clean`` (nothing to find), and
``tatoeba`` en-de as it is. Every method is written when it is done, and what is there is not run again; pre-trained
states are kept in ``--work``. ``--search 29000`` measures a round of the default search on all of Multi30k in epochs of
its training. ``--spare`` measures on held-out pairs without another role instead of the test part: learning rate and
updates of the continuation (by random continuation and denoising), and the settings of `RCL`, were chosen so on seed
100.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.curriculum_common import Run, equal_budgets, tables
from benchmarks.curriculum_translation_task import (
    DATA,
    LOSS,
    LRS,
    bleu,
    collate,
    loss_on,
    new_model,
    pretrain,
    step,
    task,
)
from tamis.core.rng import numpy_generator, seed_of
from tamis.samplers import Length, LogLikelihood, LossDifference, Rarity, curriculum_features, log_likelihoods
from tamis.search import AgentConfig, search_curriculum
from tamis.search.curriculum.gradient import rewards_by
from tamis.search.curriculum.states import States

CORPORA = {  # data, share of shuffled targets, training pairs
    "multi30k": ("multi30k", 0.3, 6000),
    "multi30k_clean": ("multi30k", 0.0, 3000),
    "tatoeba": ("tatoeba", 0.0, 3000),
}
BATCH, EVERY, UPDATES, LR = 32, 20, 160, 3e-4
CANDIDATES, PROBES = 4096, 2
AGENT = AgentConfig(steps=2000, warm_up=200, hidden=(64, 64), trailing=500)
EXACT = AgentConfig(steps=74, warm_up=20, hidden=(64, 64), trailing=20, keep_every=10, observe="chosen")
COLUMNS = ("sum", "per_token")
AHEAD = {"lookahead": 36, "lookahead_lr": 0.1}
# pool size of each round, and options of the search; "trusted" adds the likelihoods of `tuned_copy` to the features
RCL = {
    "rcl_ahead": ((4, 4), {"trusted": True, **AHEAD}),
    "rcl_ahead_plain": ((4, 4), AHEAD),
    "rcl_4": ((4, 4, 4, 4), {}),
    "rcl_2": ((16, 128), {}),
    "rcl_exact": ((16, 128), {"reward": "exact", "agent": EXACT}),  # the paper's, cut to the common budget
}
# rivals with as many rounds as rcl_ahead: fresh scores and a return to the best weights at the beginning of each
FRESH = {"denoising_2": "denoising", "ahead_2": "ahead"}
# the same at the rate that the pre-training ended with
SLOW = {"random_slow": "random", "denoising_slow": "denoising", "rcl_ahead_slow": "rcl_ahead"}
METHODS = (
    "random", "rcl_ahead", "denoising", "denoising_2", "ahead", "ahead_2", "alignment", "rcl_4", "lowest_loss",
    "rcl_2", "rho", "length", "rarity", "rcl_ahead_plain", "rcl_exact", *SLOW,
)  # fmt: skip


def features_of(model, data):
    return curriculum_features(
        data.frame, text=["source", "target"], model=model, items=data.train, collate=collate, loss="seq2seq",
        batch_size=100,
    )  # fmt: skip


def batches(items):
    return [collate(items[at : at + 100]) for at in range(0, len(items), 100)]


def tuned_copy(model, data, seed, epochs=4, lr=LRS[1]):
    """Log-likelihoods under a copy that is tuned on the trusted data, which is the reward's; their sample-forwards."""
    other, held = copy.deepcopy(model), len(data.reward)
    adam, generator = torch.optim.Adam(other.parameters(), lr=lr), numpy_generator(21, seed)
    for part in np.concatenate([generator.permutation(held).reshape(-1, 25) for _ in range(epochs)]):
        step(other, adam, data.reward, part)
    values = log_likelihoods(other, data.train, collate=collate, loss="seq2seq", batch_size=100)
    return values, len(data.train) + 3 * epochs * held


def path_cost(data, lookahead):
    """Sample-forwards of the gradient that the rewards are taken with."""
    held = len(data.reward)
    return 3 * held if lookahead == 1 else 2 * held + 3 * lookahead * min(100, held)


def scores_by_hand(name, model, data, table, seed):
    """Scores of a hand-written curriculum and what they cost in sample-forwards."""
    n = len(data.train)
    if name in ("alignment", "ahead"):  # the first-order rewards themselves, of the present gradient or the path's
        options = AHEAD if name == "ahead" else {}
        measure = rewards_by("first_order", model, lambda: batches(data.reward), 1e-4, LOSS, **options)
        return torch.from_numpy(measure(batches(data.train))), 2 * n + path_cost(data, options.get("lookahead", 1))
    if name in ("denoising", "rho"):
        other = (model, data, seed) if name == "denoising" else (new_model(seed), data, seed, 12, LRS[0])
        values, cost = tuned_copy(*other)
        return LossDifference("second")(table.with_group("second", values, COLUMNS)), n + cost
    scorer, cost = {"length": (Length(), 0), "rarity": (Rarity("source"), 0), "lowest_loss": (LogLikelihood(), n)}[name]
    return scorer(table), cost


def scores_by_agent(model, data, table, pool, seed, *, trusted=False, reward="first_order", agent=AGENT, **options):
    """Scores of an agent that is trained now, and its sample-forwards."""
    cost = len(data.train)
    if trusted:
        values, more = tuned_copy(model, data, seed)
        table, cost = table.with_group("trusted", values, COLUMNS), cost + more
    policy = search_curriculum(
        model, data.train, data.reward, table, selection=data.selection, collate=collate, loss="seq2seq",
        rounds=(pool,), update=None, agent=agent, candidates=CANDIDATES, probes=PROBES, seed=seed, batch_size=100,
        reward=reward, **options,
    )  # fmt: skip
    return policy(table), policy.search.budget["sample_forwards"] + cost


def budget_of(data):
    """Sample-forwards of the dearest method's search: the rounds of ``rcl_ahead``."""
    pools, options = RCL["rcl_ahead"]
    n, path = len(data.train), path_cost(data, options["lookahead"])
    return len(pools) * (2 * n + 12 * len(data.reward) + 2 * min(CANDIDATES, n) + path + 8)


def continued(base, data, lr):
    """A `Run` from the pre-trained state, Adam's included."""
    model = copy.deepcopy(base[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.98))
    optimizer.load_state_dict(copy.deepcopy(base[1].state_dict()))
    optimizer.param_groups[0]["lr"] = lr
    return Run(
        model, optimizer, lambda m, o, part: step(m, o, data.train, part), lambda m: loss_on(m, data.selection),
        BATCH, EVERY,
    )  # fmt: skip


def measured(model, data):
    score, texts = bleu(model, data)
    return {"test perplexity": float(np.exp(loss_on(model, data.test))), "BLEU": score}, texts


def run_method(name, base, data, table, seed, updates=UPDATES):
    """Continue by one method: its row of the results. ``table``: features under the pre-trained model."""
    lr, name = LRS[-1] if name in SLOW else LR, SLOW.get(name, name)
    pools, options = RCL.get(name, ((1,) if name == "random" else (4, 4) if name in FRESH else (4,), {}))

    def scores_of(model, number, pool):
        now = seed_of(seed, number)
        if name == "random":
            return torch.zeros(len(data.train)), 0
        fresh = features_of(model, data) if number else table
        if name in RCL:
            return scores_by_agent(model, data, fresh, pool, now, **options)
        return scores_by_hand(FRESH.get(name, name), model, data, fresh, now)

    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed_of(31, seed))  # dropout
        return equal_budgets(
            continued(base, data, lr), pools, scores_of, lambda model: measured(model, data)[0], data.clean,
            updates=updates, budget=budget_of(data), each=3 * BATCH + len(data.selection) / EVERY, seed=seed,
        )  # fmt: skip


def pretrained(args, data, seed):
    """(model, Adam) of a seed and how long it took; kept in ``--work`` for a later call."""
    folder = args.work / f"{args.corpus}-{seed}-{len(data.train)}"
    model = new_model(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LRS[-1], betas=(0.9, 0.98))
    if (folder / "about.json").exists():
        States(model, optimizer, None, folder).restore("pretrained")
        return (model, optimizer), json.loads((folder / "about.json").read_text())
    start = time.process_time()
    model, optimizer, history = pretrain(data, seed, 2 if args.quick else 30)
    about = {"epochs": len(history), "epoch's CPU s": (time.process_time() - start) / len(history)}
    States(model, optimizer, None, folder).save("pretrained")
    (folder / "about.json").write_text(json.dumps(about))
    return (model, optimizer), about


def one_seed(args, runs, seed):
    """Pre-train, continue by every method that is not there yet, and write each as it is done."""
    rows = runs.setdefault(args.corpus, {}).setdefault(str(seed), {})
    wanted = [name for name in args.methods if name not in rows]
    if not wanted:
        return
    corpus, noise, pairs = CORPORA[args.corpus]
    data = task(args.data, corpus, seed, noise, 400 if args.quick else pairs, spare=args.spare)
    base, about = pretrained(args, data, seed)
    (before, texts), table = measured(base[0], data), features_of(base[0], data)
    rows["before"] = {**before, **about}
    print(args.corpus, seed, rows["before"], texts[:3], data.references[:3], flush=True)
    for name in wanted:
        rows[name] = run_method(name, base, data, table, seed, 2 * EVERY if args.quick else UPDATES)
        print(args.corpus, seed, name, {k: round(v, 4) for k, v in rows[name].items()}, flush=True)
        write(args.out, runs)


def write(path, runs, search=None):
    """The file: every run, and the tables made of them."""
    old = json.loads(path.read_text()) if path.exists() else {}
    search = search or old.get("figures", {}).get("whole_search")
    figures = {
        corpus: tables([row for row in seeds.values() if len(row) > 1], "rcl_ahead", "rcl_ahead_slow")
        for corpus, seeds in runs.items()
    }
    result = {
        "benchmark": "curriculum_translation", "claim": __doc__.split("\n")[0],
        "data": ", ".join(f"{name}: {pairs} pairs" for name, (_, _, pairs) in CORPORA.items())
        + "; 400 for the reward, 300 for selection, at most 400 for the test",
        "seeds": {corpus: sorted(map(int, seeds)) for corpus, seeds in runs.items()},
        "budget": f"{UPDATES} updates of {BATCH}; then equal sample-forwards, those of rcl_ahead",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "figures": {**figures, **({"whole_search": search} if search else {})}, "runs": runs,
        "tried": old.get("tried", []),  # while the settings were chosen, on a seed that is not reported
    }  # fmt: skip
    path.write_text(json.dumps(result, indent=1) + "\n")


def whole_search(data, pairs, quick):
    """CPU seconds of a round with the defaults (features and agent included) on Multi30k, in epochs of training."""
    parts = task(data, "multi30k", 0, 0.3, pairs, longest=30)
    model = new_model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=LRS[0])
    order = np.array_split(np.arange(len(parts.train)), -(-len(parts.train) // 64))
    start = time.process_time()
    for part in order[::10]:  # every tenth batch of an epoch in order of length
        step(model, optimizer, parts.train, part)
    epoch = (time.process_time() - start) * len(order) / len(order[::10])
    print("epoch", epoch, flush=True)
    start = time.process_time()
    table = features_of(model, parts)
    middle = time.process_time()
    search_curriculum(
        model, parts.train, parts.reward, table, selection=parts.selection, collate=collate, loss="seq2seq",
        rounds=(4,), update=None, batch_size=100, agent=AgentConfig(steps=30, warm_up=10) if quick else None,
    )  # fmt: skip
    end = time.process_time()
    return {
        "pairs": len(parts.train), "epoch_cpu_seconds": epoch, "features_cpu_seconds": middle - start,
        "search_cpu_seconds": end - middle, "epochs_of_training": (end - start) / epoch,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--corpus", choices=CORPORA, default="multi30k")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--search", type=int, metavar="PAIRS", help="measure the time of a search on so many instead")
    parser.add_argument("--spare", action="store_true", help="measure on spare held-out pairs: to choose settings")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tamis-curriculum")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curriculum_translation.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else {}
    if args.search:
        write(args.out, runs, whole_search(args.data, args.search, args.quick))
    else:
        for seed in args.seeds:
            one_seed(args, runs, seed)


if __name__ == "__main__":
    main()
