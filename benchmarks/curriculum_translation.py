"""Claim under test: the reinforced curriculum improves a trained translation model more than other choices do.

A small transformer is trained until its selection loss stops falling, at the last of three learning rates too; then
each method continues it from that state (weights and Adam) at the last rate: first ``UPDATES`` updates each ("equal
updates"), then as many more as make the sample-forwards of all methods equal, with the search and the looks at the
selection data, a backward pass counting as two ("equal forwards"). The model at the lowest selection loss is measured.

Corpora: ``multi30k`` de-en with 30 % of the training targets shuffled, ``multi30k_clean`` (nothing to find), and
``tatoeba`` en-de as it is. Three consecutive seeds share training data, noise and pre-trained model and differ in all
else (held-out split, agent, orders, dropout). Every method is written when it is done, and what is there is not run
again. ``--search 29000`` measures a round of the default search on all of Multi30k in epochs of its training.
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
from tamis._core.rng import numpy_generator, seed_of
from tamis.samplers import Length, LogLikelihood, LossDifference, Rarity, curriculum_features, log_likelihoods
from tamis.samplers.curriculum_gradient import rewards_by
from tamis.search import search_curriculum
from tamis.search.curriculum_states import States
from tamis.search.optimizers import AgentConfig

CORPORA = {"multi30k": ("multi30k", 0.3), "multi30k_clean": ("multi30k", 0.0), "tatoeba": ("tatoeba", 0.0)}
PAIRS, BATCH, EVERY, UPDATES, CANDIDATES, PROBES = 6000, 32, 20, 80, 1000, 2
AGENT = AgentConfig(steps=500, warm_up=100, hidden=(64, 64), trailing=200)
COLUMNS = ("sum", "per_token")
# pool size of each round; rcl_ahead has lookahead=36, by which two of its rounds cost what four others do
RCL = {"rcl_1": (16,), "rcl_2": (16, 128), "rcl_4": (4, 4, 4, 4), "rcl_ahead": (4, 4)}
METHODS = (
    "random", "rcl_ahead", "rcl_4", "denoising", "lowest_loss", "alignment", "rcl_2", "rcl_1", "length", "rarity",
    "rho",
)  # fmt: skip


def search_cost(data):
    """Sample-forwards of one round: log-likelihoods, rewards of the candidates, validation gradient, exact probes."""
    held = len(data.reward)
    return len(data.train) + 2 * CANDIDATES + 3 * held + PROBES * (held + 3)


def features_of(model, data):
    return curriculum_features(
        data.frame, text=["source", "target"], model=model, items=data.train, collate=collate, loss="seq2seq",
        batch_size=100,
    )  # fmt: skip


def batches(items):
    return [collate(items[at : at + 100]) for at in range(0, len(items), 100)]


def scores_by_hand(name, model, data, table, seed):
    """Scores of a hand-written curriculum and what they cost in sample-forwards."""
    n, held = len(data.train), len(data.reward)
    if name == "alignment":
        measure = rewards_by("first_order", model, lambda: batches(data.reward), 1e-4, LOSS)
        return torch.from_numpy(measure(batches(data.train))), 2 * n + 3 * held
    if name in ("denoising", "rho"):
        # the trusted data is the reward's: a copy tuned on it, or a model of its own
        other, epochs, lr = (copy.deepcopy(model), 4, LRS[1]) if name == "denoising" else (new_model(seed), 12, LRS[0])
        adam, generator = torch.optim.Adam(other.parameters(), lr=lr), numpy_generator(21, seed)
        for part in np.concatenate([generator.permutation(held).reshape(-1, 25) for _ in range(epochs)]):
            step(other, adam, data.reward, part)
        values = log_likelihoods(other, data.train, collate=collate, loss="seq2seq", batch_size=100)
        return LossDifference("second")(table.with_group("second", values, COLUMNS)), 2 * n + 3 * epochs * held
    scorer, cost = {"length": (Length(), 0), "rarity": (Rarity("source"), 0), "lowest_loss": (LogLikelihood(), n)}[name]
    return scorer(table), cost


def scores_by_agent(name, model, data, table, pool, seed):
    """Scores of an agent that is trained now, and its sample-forwards."""
    policy = search_curriculum(
        model, data.train, data.reward, table, selection=data.selection, collate=collate, loss="seq2seq",
        rounds=(pool,), update=None, agent=AGENT, candidates=CANDIDATES, probes=PROBES, seed=seed, batch_size=100,
        lookahead=36 if name == "rcl_ahead" else 1,
    )  # fmt: skip
    return policy(table), policy.search.budget["sample_forwards"] + len(data.train)


def continued(base, data, lr=LRS[-1]):
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
    """Continue by one method: its row of the table. ``table``: features under the pre-trained model."""

    def scores_of(model, number, pool):
        if name == "random":
            return torch.zeros(len(data.train)), 0
        if name in RCL:
            now = features_of(model, data) if number else table
            return scores_by_agent(name, model, data, now, pool, seed_of(seed, number))
        return scores_by_hand(name, model, data, table, seed)

    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed_of(31, seed))  # dropout
        return equal_budgets(
            continued(base, data), pools_of(name), scores_of, lambda model: measured(model, data)[0], data.clean,
            updates=updates, budget=4 * search_cost(data), each=3 * BATCH + len(data.selection) / EVERY, seed=seed,
        )  # fmt: skip


def pools_of(name):
    return {**RCL, "random": (1,)}.get(name, (4,))


def pretrained(args, corpus, group, noise, pairs):
    """(model, Adam) of a group and how long it took; kept in the temporary folder for a later call."""
    folder = Path(tempfile.gettempdir()) / "tamis-curriculum" / f"{args.corpus}-{group}-{pairs}"
    model = new_model(group)
    optimizer = torch.optim.Adam(model.parameters(), lr=LRS[-1], betas=(0.9, 0.98))
    if not (folder / "about.json").exists():
        start = time.process_time()
        data = task(args.data, corpus, group, 3 * group, noise, pairs)  # the selection data of the first seed
        model, optimizer, history = pretrain(data, group, 2 if args.quick else 30)
        about = {"epochs": len(history), "epoch's CPU s": (time.process_time() - start) / len(history)}
        States(model, optimizer, None, folder).save("pretrained")
        (folder / "about.json").write_text(json.dumps(about))
    else:
        States(model, optimizer, None, folder).be("pretrained")
    return (model, optimizer), json.loads((folder / "about.json").read_text())


def one_group(args, runs, seeds):
    """Pre-train for these seeds, continue by every method that is not there yet, and write each as it is done."""
    corpus, noise = CORPORA[args.corpus]
    base = table = None
    for seed in seeds:
        rows = runs.setdefault(args.corpus, {}).setdefault(str(seed), {})
        wanted = [name for name in args.methods if name not in rows]
        if not wanted:
            continue
        data = task(args.data, corpus, seed // 3, seed, noise, 400 if args.quick else PAIRS)
        if base is None:
            base, about = pretrained(args, corpus, seed // 3, noise, len(data.train))
            table = features_of(base[0], data)
        before, texts = measured(base[0], data)
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
    figures = {corpus: tables([row for row in seeds.values() if len(row) > 1]) for corpus, seeds in runs.items()}
    result = {
        "benchmark": "curriculum_translation", "claim": __doc__.split("\n")[0],
        "data": f"{PAIRS} pairs of Multi30k de-en (or Tatoeba en-de), 400 for the reward, 300 for selection",
        "seeds": {corpus: sorted(map(int, seeds)) for corpus, seeds in runs.items()},
        "budget": f"{UPDATES} updates of {BATCH}; then equal sample-forwards, those of four rounds of RCL",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "figures": {**figures, **({"whole_search": search} if search else {})}, "runs": runs,
    }  # fmt: skip
    path.write_text(json.dumps(result, indent=1) + "\n")


def whole_search(data, pairs, quick):
    """CPU seconds of a round with the defaults (features and agent included) on Multi30k, in epochs of training."""
    parts = task(data, "multi30k", 0, 0, 0.3, pairs, longest=30)
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
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curriculum_translation.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(args.out.read_text())["runs"] if args.out.exists() else {}
    if args.search:
        write(args.out, runs, whole_search(args.data, args.search, args.quick))
    else:
        for group in sorted({seed // 3 for seed in args.seeds}):
            one_group(args, runs, [seed for seed in args.seeds if seed // 3 == group])


if __name__ == "__main__":
    main()
