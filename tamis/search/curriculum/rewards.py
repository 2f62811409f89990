"""The rewards of one round: a journaled table (first order, checked by a few exact ones), or exact ones on demand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tamis.core.distributed import parallel_map, rank, world_size
from tamis.core.rng import numpy_generator, seed_of
from tamis.search.curriculum.config import CurriculumConfig
from tamis.search.curriculum.gradient import exact_rewards, keeps_small_steps, mean_loss, rewards_by
from tamis.search.curriculum.samples import Samples, finite
from tamis.search.curriculum.states import Steps
from tamis.search.curriculum.tuned import RATES, TunedCopies

__all__ = ["Rewards"]

CHUNK = 1024  # samples whose rewards are one line of the journal
AGREES = 0.9  # rank correlation with exact probes below which first-order rewards are doubted


class Rewards:
    """Rewards of the training samples by the model as it is in one round.

    Args:
        samples: the data.
        config: the search's settings.
        steps: of the search.
        number: of the round.

    Attributes:
        chosen: int64, the training samples that have a reward, in order.
        forwards: samples that went through the model so far; a backward pass counts as two.
        agreement: rank correlation of first-order and exact rewards; None where they were not compared.
    """

    def __init__(self, samples: Samples, config: CurriculumConfig, steps: Steps, number: int) -> None:
        self.samples, self.config, self.steps, self.number = samples, config, steps, number
        self.chosen = np.arange(len(samples.train))
        count = config.candidates
        if count is not None and count < len(self.chosen) and config.reward != "exact":
            self.chosen = np.sort(numpy_generator(config.seed, number, 1).permutation(len(self.chosen))[:count])
        self.forwards = 0
        self.agreement: float | None = None
        self._before: float | None = None

    def by_position(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function of positions in ``chosen`` that gives their rewards, float64."""
        if self.config.reward == "exact":
            self.forwards += len(self.samples.validation)  # the loss before any step
            return self._probed
        table = self._table()
        # what lies ahead is meant to differ from one step
        if (
            self.config.reward == "first_order"
            and self.config.probes
            and self.config.lookahead == 1
            and keeps_small_steps(self.samples.model)
        ):
            self._check(table)
        return lambda positions: table[positions]

    def _probed(self, positions: np.ndarray) -> np.ndarray:
        """Exact rewards, each a step of the search."""

        def compute(items: list[int]) -> list[dict[str, Any]]:
            if self._before is None:
                self._before = mean_loss(self.samples.model, self.samples.validation_batches(), self.samples.loss)
            found = parallel_map(lambda i: float(self._exact([int(self.chosen[i])], self._before)[0]), items)
            pairs = zip(found, items, strict=True)
            return [{"phase": "probe", "reward": finite(value, int(self.chosen[i]))} for value, i in pairs]

        items = [int(position) for position in positions]
        self.forwards += len(items) * (len(self.samples.validation) + 3)
        inputs = [self.samples.print_of(self.chosen[[i]]) for i in items]
        records = self.steps.run_many(items, compute, at_once=world_size(), inputs=inputs)
        return np.array([record["reward"] for record in records])

    def _table(self) -> np.ndarray:
        """Rewards of all that are chosen, by first order or by tuned copies."""
        config, samples = self.config, self.samples
        measure: list[Callable[[Iterable[Any]], np.ndarray]] = []

        def chunk(start: int) -> list[float]:
            if not measure:  # the validation gradient or the tuned copies, once, and only if a chunk is missing
                measure.append(self._measure())
            part = self.chosen[start : start + CHUNK]
            values = measure[0](samples.batches(samples.train, part))
            return [finite(float(value), int(index)) for value, index in zip(values, part, strict=True)]

        def compute(items: list[int]) -> list[dict[str, Any]]:
            if config.reward == "tuned" and not measure:
                measure.append(self._measure())  # on all ranks together: the copies are rank 0's
            return [{"phase": "rewards", "values": values} for values in parallel_map(chunk, items)]

        starts = list(range(0, len(self.chosen), CHUNK))
        records = self.steps.run_many(
            starts,
            compute,
            at_once=world_size(),
            inputs=[samples.print_of(self.chosen[start : start + CHUNK]) for start in starts],
        )
        if config.reward == "tuned":
            self.forwards += 3 * len(self.chosen) + self._tuning()
            return np.concatenate([np.array(record["values"]) for record in records])
        held = len(samples.validation)
        path = 2 * held + 3 * config.lookahead * min(samples.batch_size, held)  # with the loss at both of its ends
        self.forwards += 2 * len(self.chosen) + (3 * held if config.lookahead == 1 else path)
        return np.concatenate([np.array(record["values"]) for record in records])

    def _measure(self) -> Callable[[Iterable[Any]], np.ndarray]:
        """A function from batches of training samples to their rewards."""
        config, samples = self.config, self.samples
        if config.reward == "first_order":
            return rewards_by(
                "first_order", samples.model, samples.validation_batches, config.probe_lr, samples.loss,
                lookahead=config.lookahead, lookahead_lr=config.lookahead_lr,
            )  # fmt: skip
        return self._copies().changes

    def _copies(self) -> TunedCopies:
        """Copies of the model as it is now."""
        config, samples = self.config, self.samples
        return TunedCopies(
            samples.model, samples.validation if samples.trusted is None else samples.trusted,
            collate=samples.collate, loss=samples.loss, lr=config.tune_lr, passes=config.tune_passes,
            seed=seed_of(config.seed, self.number, 5), batch_size=samples.batch_size,
        )  # fmt: skip

    def _tuning(self) -> int:
        """At most so many samples went through the copies while they were tuned."""
        size = len(self.samples.validation if self.samples.trusted is None else self.samples.trusted)
        rates = len(RATES) if self.config.tune_lr is None else 1
        return size + rates * self.config.tune_passes * 4 * size

    def _check(self, table: np.ndarray) -> None:
        """Compare with a few exact rewards; warn if they rank otherwise."""
        picks = numpy_generator(self.config.seed, self.number, 2).permutation(len(self.chosen))[: self.config.probes]
        record = self.steps.run(lambda: {"phase": "check", "exact": self._exact(self.chosen[picks]).tolist()})
        held = len(self.samples.validation)
        self.forwards += len(picks) * (held + 3) + held
        if len(picks) < 3:
            return
        self.agreement = _rank_correlation(table[picks], np.array(record["exact"]))
        if self.agreement < AGREES and rank() == 0:
            warnings.warn(
                f"search_curriculum: first-order rewards agree with {len(picks)} exact ones only to "
                f"{self.agreement:.2f} (rank correlation); lower probe_lr, or pass reward='exact'",
                UserWarning,
                stacklevel=6,
            )

    def _exact(self, indices: Iterable[int], before: float | None = None) -> np.ndarray:
        samples = self.samples
        singles = (samples.batch(samples.train, [index]) for index in indices)
        return exact_rewards(
            samples.model, singles, samples.validation_batches, self.config.probe_lr, samples.loss, before=before
        )


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's; 0 where one of the two does not vary."""
    try:
        from scipy.stats import spearmanr
    except ImportError as error:
        raise ImportError("probes: need scipy; pip install 'tamis[search]', or pass probes=0") from error
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
