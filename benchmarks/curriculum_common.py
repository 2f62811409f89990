"""What the curriculum's benchmarks share: continued training at an equal budget, and paired differences."""

from __future__ import annotations

import copy

import numpy as np

from tamis.core.rng import seed_of
from tamis.samplers import CurriculumSampler

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t, two-sided


def stream(scores, pool, seed):
    """(position, count) -> the chosen samples from there on."""

    def indices(at, count):
        sampler = CurriculumSampler(scores, pool=pool, num_samples=at + count, seed=seed)
        return np.concatenate(list(sampler.indices(0, at)))

    return indices


class Run:
    """One continued training: its model at the best selection loss so far, and all that it was fed.

    Args:
        model: in training; its state and the optimizer's are the best ones after `best`.
        optimizer: of the model.
        update: (model, optimizer, indices) -> one update.
        look: model -> selection loss.
        batch: samples an update.
        every: updates between two looks.
    """

    def __init__(self, model, optimizer, update, look, batch, every):
        self.model, self.optimizer, self.update, self.look = model, optimizer, update, look
        self.batch, self.every = batch, every
        self.updates, self.looks, self.picks = 0, 0, []
        self.kept = self.state()
        self.lowest = look(model)

    def state(self):
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))

    def be(self, state):
        self.model.load_state_dict(state[0])
        self.optimizer.load_state_dict(copy.deepcopy(state[1]))

    def go(self, indices, updates, patience=None):
        """``updates`` further ones on ``indices``; fewer if ``patience`` looks in a row bring nothing."""
        bad = 0
        for at in range(0, updates, self.every):
            picks = indices(at * self.batch, min(self.every, updates - at) * self.batch)
            self.picks.append(picks)
            for part in np.split(picks, len(picks) // self.batch):
                self.update(self.model, self.optimizer, part)
            self.updates += len(picks) // self.batch
            self.looks += 1
            now = self.look(self.model)
            if now < self.lowest:
                self.lowest, self.kept, bad = now, self.state(), 0
            else:
                bad += 1
                if bad == patience:
                    break
        return self

    def at_best(self, measure):
        """``measure(model)`` at the lowest selection loss; the training stands afterwards where it stood."""
        now = self.state()
        self.be(self.kept)
        value = measure(self.model)
        self.be(now)
        return value

    def selected(self, clean):
        """Precision and diversity of what was fed so far."""
        picks = np.concatenate(self.picks)
        return {"clean": float(clean[picks].mean()), "distinct": len(set(picks.tolist())) / len(picks)}


def equal_budgets(run, pools, scores_of, measure, clean, *, updates, budget, each, seed):
    """Continue by one method with as many updates as all others, then with as many sample-forwards as all others.

    Args:
        run: a `Run` in the trained state.
        pools: pool size of each round; ``updates`` are shared out among the rounds.
        scores_of: (model, number of the round, pool size) -> scores of the training data, and the sample-forwards that
            they took.
        measure: model -> dict of test figures.
        clean: which training samples are right.
        updates: of every method.
        budget: sample-forwards besides those of ``updates``, for the search and for further updates, which end earlier
            if three looks in a row bring nothing.
        each: sample-forwards of an update.
        seed: of the order.
    """
    cost, share = 0, updates // len(pools)
    for number, pool in enumerate(pools):
        run.be(run.kept)
        scores, more = scores_of(run.model, number, pool)
        cost += more
        indices = stream(scores, pool, seed_of(seed, number))
        run.go(indices, share)
    row = run.selected(clean)
    found = run.at_best(measure)
    row |= {f"{name} (equal updates)": value for name, value in found.items()}
    lowest = run.lowest
    run.go(lambda at, count: indices(share * run.batch + at, count), int((budget - cost) / each), patience=3)
    found = run.at_best(measure) if run.lowest < lowest else found
    row |= {f"{name} (equal forwards)": value for name, value in found.items()}
    spent = {"updates in all": run.updates, "search's forwards": cost, "forwards in all": cost + each * run.updates}
    return {**row, **spent}


def tables(rows, *ours):
    """Means over the seeds, and paired differences with 95 % intervals of every method.

    Args:
        rows: one dict a seed: method -> its figures.
        ours: methods whose differences to all others are given too.
    """
    means = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        have = [row for row in rows if name in row]
        means[name] = {"seeds": len(have)}
        means[name] |= {key: float(np.mean([row[name][key] for row in have])) for key in have[0][name]}
    methods = [name for name in means if name != "before"]
    return {
        "mean": means,
        "minus random continuation": {name: gaps(rows, name, "random") for name in methods if name != "random"},
        **{
            f"{one} minus it": {name: gaps(rows, one, name) for name in methods if name != one}
            for one in ours
            if one in methods
        },
    }


def gaps(rows, method, against):
    """Differences of the test figures, over the seeds that have both."""
    both = [row for row in rows if method in row and against in row]
    result = {"seeds": len(both)}
    for key in both[0][method] if both else ():
        if key.endswith(("updates)", "forwards)")):
            found = paired(both, method, against, key)
            result |= {key: found["mean"], f"{key}, 95 %": found["interval"]}
    return result


def paired(rows, method, against, key):
    """Mean difference over the seeds and its 95 % interval (Student's t)."""
    d = np.array([row[method][key] - row[against][key] for row in rows])
    if len(d) < 2:
        return {"mean": float(d.mean()), "interval": None}
    half = T_95[len(d)] * d.std(ddof=1) / len(d) ** 0.5
    return {"mean": float(d.mean()), "interval": [float(d.mean() - half), float(d.mean() + half)]}
