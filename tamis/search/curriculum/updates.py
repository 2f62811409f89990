"""The updates of one round: the model is trained on what the agent chose until its selection loss stops falling."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tamis.core.models import training_flags
from tamis.core.progress import progress_bar
from tamis.core.rng import numpy_generator, seed_of, seeded_globals
from tamis.samplers.curriculum.sampler import CurriculumSampler
from tamis.search.curriculum.config import UpdateConfig
from tamis.search.curriculum.gradient import mean_loss
from tamis.search.curriculum.samples import Samples, finite
from tamis.search.curriculum.states import START, States, Steps

__all__ = ["Improved", "Updates"]


class Improved(NamedTuple):
    """What a round's updates came to.

    Attributes:
        state: name of the best state.
        before: selection loss before the updates.
        loss: that of the best state.
        distinct: share of the training data that was drawn.
    """

    state: str
    before: float
    loss: float
    distinct: float


class Updates:
    """The updates of one round.

    Args:
        samples: the data.
        update: batch size, learning rate and patience.
        steps: of the search.
        states: of model, optimizer and scheduler.
        number: of the round.
        seed: of the search.

    Attributes:
        forwards: samples that went through the model so far; a backward pass counts as two.
    """

    def __init__(
        self, samples: Samples, update: UpdateConfig, steps: Steps, states: States, *, number: int, seed: int
    ) -> None:
        self.samples, self.update, self.steps, self.states = samples, update, steps, states
        self.number, self.seed = number, seed
        self.forwards = 0

    def run(self, scores: Tensor, pool: int, state: str) -> Improved:
        """Update until the selection loss stops falling.

        Args:
            scores: of the training samples by the agent, [N].
            pool: candidates from which one is chosen.
            state: name of the state to begin with.
        """
        update = self.update
        own = update.batch_size - self.trusted_each
        each = update.eval_every * own
        sampler = CurriculumSampler(scores, pool=pool, num_samples=each, seed=seed_of(self.seed, self.number))
        record = self.steps.run(lambda: {"phase": "before", "loss": self._selection_loss(state)})
        before = best = record["loss"]
        self.forwards += len(self.samples.selection)
        at, kept, bad, look = state, state, 0, 0
        looks = range(update.max_updates // update.eval_every)
        for look in progress_bar(looks, desc=f"updates, round {self.number + 1}"):
            name = f"round-{self.number}-{look}"
            indices = np.concatenate(list(sampler.indices(look, 0)))
            record = self.steps.run(
                lambda: self._stretch(indices, look, at, name),  # noqa: B023
                inputs=self.samples.print_of(indices),
            )
            self.forwards += 3 * update.eval_every * update.batch_size + len(self.samples.selection)
            better, old = record["loss"] < best, at
            at, bad = name, 0 if better else bad + 1
            if better:
                best, kept, old_best = record["loss"], name, kept
                if old_best not in (START, old, state):
                    self.states.drop(old_best)
            if old not in (kept, state):
                self.states.drop(old)
            if bad >= update.patience:
                break
        if at not in (kept, state):
            self.states.drop(at)
        return Improved(kept, before, best, sampler.report(look + 1)["share"])

    @property
    def trusted_each(self) -> int:
        """Trusted samples in each update."""
        if self.samples.trusted is None or not self.update.mix:
            return 0
        return min(max(1, round(self.update.mix * self.update.batch_size)), self.update.batch_size - 1)

    def _trusted(self, look: int) -> list[np.ndarray]:
        """Positions of the trusted samples of each update of a look: a permutation after the other, each once."""
        trusted, each, count = self.samples.trusted, self.trusted_each, self.update.eval_every
        if trusted is None or not each:
            return [np.empty(0, np.int64)] * count
        places = np.arange(look * count * each, (look + 1) * count * each)
        passes = np.arange(places[0] // len(trusted), places[-1] // len(trusted) + 1)
        orders = {int(n): numpy_generator(self.seed, self.number, int(n), 6).permutation(len(trusted)) for n in passes}
        picks = np.array([orders[int(p // len(trusted))][p % len(trusted)] for p in places])
        return np.split(picks, count)

    def _selection_loss(self, state: str) -> float:
        self.states.restore(state)
        return self._loss()

    def _loss(self) -> float:
        samples = self.samples
        return finite(mean_loss(samples.model, samples.batches(samples.selection), samples.loss))

    def _stretch(self, indices: np.ndarray, look: int, state: str, name: str) -> dict[str, Any]:
        """``eval_every`` updates from ``state`` on ``indices``, kept as ``name``; their selection loss."""
        self.states.restore(state)
        self.states.now = ""  # in no named state until the end
        samples, optimizer, scheduler = self.samples, self.states.optimizer, self.states.scheduler
        if optimizer is None:
            raise TypeError("optimizer=None: updates need one")
        with training_flags(samples.model), seeded_globals(seed_of(self.seed, self.number, look, 4)):
            samples.model.train()
            for part, mixed in zip(np.split(indices, self.update.eval_every), self._trusted(look), strict=True):
                total, count = samples.loss(samples.model, samples.batch(samples.train, part))
                total, count = total.sum(), count.sum()
                if samples.trusted is not None and len(mixed):
                    more, tokens = samples.loss(samples.model, samples.batch(samples.trusted, mixed))
                    total, count = total + more.sum(), count + tokens.sum()
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(total / count.clamp(min=1))
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        self.states.save(name)
        return {"phase": "update", "loss": self._loss()}
