"""One search of the reinforced curriculum, round by round: rewards, agent, updates. See `search_curriculum`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.checks import check_int, check_range
from tamis.core.distributed import broadcast_object, parallel_map, rank, world_size
from tamis.core.errors import NoEffectWarning, TamisError
from tamis.core.progress import progress_bar
from tamis.core.rng import numpy_generator, seed_of
from tamis.features.losses import SampleLoss, log_likelihoods, make_batch
from tamis.features.table import FeatureTable
from tamis.policy.base import DataInfo, SearchInfo, fingerprint
from tamis.samplers.curriculum.agent import OTHER_WIDTH, WIDTHS
from tamis.samplers.curriculum.sampler import CLIP, CurriculumPolicy, CurriculumSampler
from tamis.search.curriculum.actor_critic import AgentConfig, Trained, standardise, train_agent
from tamis.search.curriculum.gradient import exact_rewards, keeps_small_steps, mean_loss, rewards_by
from tamis.search.curriculum.states import States, Steps

__all__ = ["Rounds", "UpdateConfig"]

CHUNK = 1024  # samples whose rewards are one line of the journal
AGREES = 0.9  # rank correlation with exact probes below which first-order rewards are doubted


@dataclass(frozen=True)
class UpdateConfig:
    """How the model is updated with what the agent chose.

    Attributes:
        batch_size: chosen samples per update.
        lr: of AdamW, used unless an optimizer is given.
        eval_every: updates between two looks at the selection loss.
        patience: looks without improvement after which a round ends.
        max_updates: of one round.
    """

    batch_size: int = 16
    lr: float = 1e-4
    eval_every: int = 50
    patience: int = 3
    max_updates: int = 2_000

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_every", "patience"):
            check_int(name, getattr(self, name), low=1)
        check_int("max_updates", self.max_updates, low=self.eval_every)
        check_range("lr", self.lr, low=0, high=1, open_low=True)


@dataclass(kw_only=True)
class Rounds:
    """One search: its data, its settings and where it stands."""

    model: nn.Module
    train: Any
    validation: Any
    selection: Any
    collate: Any
    loss: SampleLoss
    reward: str
    agent: AgentConfig
    probe_lr: float
    lookahead: int
    lookahead_lr: float
    probes: int
    candidates: int | None
    update: UpdateConfig | None
    batch_size: int
    describe: Callable[[Any], str] | None
    seed: int
    out: Path | None
    steps: Steps
    states: States
    prints: list[str] | None  # of each training sample
    forwards: int  # samples that went through the model so far; a backward pass counts as two
    agreement: float | None = None

    def all_rounds(self, features: FeatureTable, rounds: tuple[int, ...]) -> CurriculumPolicy:
        state, first, score, last = "start", None, 0.0, None
        if self.update is not None and not self.states.has(state):
            self.states.save(state)
        for number, pool in enumerate(rounds):
            if self.update is not None:
                self.states.be(state)
            if number and "log_likelihood" in features.groups and self.update is not None:
                values = log_likelihoods(
                    self.model, self.train, collate=self.collate, loss=self.loss, batch_size=self.batch_size
                )
                self.forwards += len(self.train)
                features = features.with_group("log_likelihood", values, features.layout["log_likelihood"])
            policy, trained = self.train_policy(features, number, pool)
            score = trained
            if self.update is not None:
                state, before, last, distinct = self.improve(policy(features), number, pool, state)
                first = before if first is None else first
                score = first - last
                policy = replace(policy, distinct=distinct)
        if self.update is not None:
            self.states.be(state)
        if self.update is not None and score <= 0:
            warnings.warn(
                "search_curriculum: no update lowered the selection loss; the model is as it was. Lower the learning "
                "rate, or accept that this model has nothing left to gain from this data",
                NoEffectWarning,
                stacklevel=4,
            )
        info = SearchInfo(
            seed=self.seed,
            budget={"rounds": len(rounds), "sample_forwards": self.forwards},
            score=float(score),
            config={
                "reward": self.reward,
                "agreement": self.agreement,
                "steps": self.agent.steps,
                "probe_lr": self.probe_lr,
                "loss_before": first,
                "loss_after": last,
            },
        )
        return replace(policy, search=info)

    # ---- the agent

    def train_policy(self, features: FeatureTable, number: int, pool: int) -> tuple[CurriculumPolicy, float]:
        """Rewards and agent of one round; read from disk if the round was over before."""
        mean, scale = standardise(features.matrix())
        chosen = np.arange(len(self.train))
        if self.candidates is not None and self.candidates < len(chosen) and self.reward == "first_order":
            chosen = np.sort(numpy_generator(self.seed, number, 1).permutation(len(chosen))[: self.candidates])
        rewards = self.rewards(number, chosen)

        made: list[CurriculumPolicy] = []

        def train() -> dict[str, Any]:
            x = ((features.matrix()[chosen] - mean) / scale).clamp(-CLIP, CLIP)
            groups = {name: len(names) for name, names in features.layout.items()}
            found = train_agent(
                x, rewards, groups, pool=pool, config=self.agent, seed=seed_of(self.seed, number),
                desc=f"agent, round {number + 1}",
            )  # fmt: skip
            made.append(broadcast_object(self.to_policy(found, features, pool, mean, scale, x)))
            if self.out is not None and rank() == 0:
                made[0].save(self.out / f"round-{number}")
            return {"phase": "agent", "reward": found.reward}

        # exact probes are steps of their own: after an interruption the agent is trained again from them
        record = train() if self.reward == "exact" else self.steps.do(train)
        if not made:
            folder = (self.out or Path()) / f"round-{number}"
            made.append(broadcast_object(CurriculumPolicy.load(folder) if rank() == 0 else None))  # type: ignore[arg-type]
        return made[0], record["reward"]

    def rewards(self, number: int, chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Positions in ``chosen`` -> rewards: a table (first order), or probes as they are asked for (exact)."""
        lr = self.probe_lr
        if self.reward == "exact":
            base: list[float] = []

            def probe(positions: np.ndarray) -> np.ndarray:
                def compute(items: list[Any]) -> list[dict[str, Any]]:
                    if not base:
                        base.append(mean_loss(self.model, self.validation_batches(), self.loss))
                    found = parallel_map(lambda i: float(self.exact([int(chosen[i])], base[0])[0]), items)
                    pairs = zip(found, items, strict=True)
                    return [{"phase": "probe", "reward": _finite(value, int(chosen[i]))} for value, i in pairs]

                items = [int(p) for p in positions]
                self.forwards += len(items) * (len(self.validation) + 3)
                of = [self.print_of(chosen[[i]]) for i in items]
                records = self.steps.do_many(items, compute, at_once=world_size(), of=of)
                return np.array([record["reward"] for record in records])

            self.forwards += len(self.validation)  # the loss before any step
            return probe
        measure: list[Callable[..., np.ndarray]] = []

        def chunk(start: int) -> list[float]:
            if not measure:  # the validation gradient, once, and only if a chunk is missing
                measure.append(
                    rewards_by(
                        "first_order", self.model, self.validation_batches, lr, self.loss,
                        lookahead=self.lookahead, lookahead_lr=self.lookahead_lr,
                    )
                )  # fmt: skip
            part = chosen[start : start + CHUNK]
            values = measure[0](self.batches(self.train, part))
            for value, index in zip(values, part, strict=True):
                _finite(float(value), int(index))
            return [float(value) for value in values]

        starts = list(range(0, len(chosen), CHUNK))
        records = self.steps.do_many(
            starts,
            lambda items: [{"phase": "rewards", "values": values} for values in parallel_map(chunk, items)],
            at_once=world_size(),
            of=[self.print_of(chosen[start : start + CHUNK]) for start in starts],
        )
        table = np.concatenate([np.array(record["values"]) for record in records])
        held = len(self.validation)
        path = 2 * held + 3 * self.lookahead * min(self.batch_size, held)  # with the loss at both of its ends
        self.forwards += 2 * len(chosen) + (3 * held if self.lookahead == 1 else path)
        # what lies ahead is meant to differ from one step
        if self.probes and self.lookahead == 1 and keeps_small_steps(self.model):
            self.check_first_order(number, chosen, table)
        return lambda positions: table[positions]

    def check_first_order(self, number: int, chosen: np.ndarray, table: np.ndarray) -> None:
        """Compare with a few exact rewards; warn if they rank otherwise."""
        picks = numpy_generator(self.seed, number, 2).permutation(len(chosen))[: self.probes]
        record = self.steps.do(lambda: {"phase": "check", "exact": self.exact(chosen[picks]).tolist()})
        self.forwards += len(picks) * (len(self.validation) + 3) + len(self.validation)
        if len(picks) < 3:
            return
        ranks = np.argsort(np.argsort([table[picks], record["exact"]], axis=1), axis=1).astype(float)
        self.agreement = float(np.corrcoef(ranks)[0, 1])
        if self.agreement < AGREES and rank() == 0:
            warnings.warn(
                f"search_curriculum: first-order rewards agree with {len(picks)} exact ones only to "
                f"{self.agreement:.2f} (rank correlation); lower probe_lr, or pass reward='exact'",
                UserWarning,
                stacklevel=5,
            )

    def to_policy(
        self, found: Trained, features: FeatureTable, pool: int, mean: Tensor, scale: Tensor, x: Tensor
    ) -> CurriculumPolicy:
        rows = numpy_generator(self.seed, 3).permutation(len(x))[:256]
        policy = CurriculumPolicy(
            columns=dict(features.layout),
            widths={name: WIDTHS.get(name, OTHER_WIDTH) for name in features.layout},
            hidden=self.agent.hidden,
            pool=pool,
            agent={name: value.detach().clone() for name, value in found.scorer.state_dict().items()},
            mean=mean,
            scale=scale,
            reference=x[torch.from_numpy(rows)].clone(),
            data=DataInfo(n=len(features), fingerprint=features.fingerprint or None),
        )
        if self.describe is None:
            return policy
        order = policy(features).argsort(descending=True, stable=True).tolist()
        best, worst = (tuple(self.describe(self.train[i])[:200] for i in ends) for ends in (order[:3], order[:-4:-1]))
        return replace(policy, best=best, worst=worst)

    # ---- the model

    def improve(self, scores: Tensor, number: int, pool: int, state: str) -> tuple[str, float, float, float]:
        """Update until the selection loss stops falling: (best state, loss before, best loss, distinct share)."""
        update = self.update or UpdateConfig()
        looks = update.max_updates // update.eval_every
        each = update.eval_every * update.batch_size
        sampler = CurriculumSampler(scores, pool=pool, num_samples=each, seed=seed_of(self.seed, number))
        record = self.steps.do(lambda: {"phase": "before", "loss": self.selection_loss(state)})
        before = best = record["loss"]
        self.forwards += len(self.selection)
        at, kept, bad, look = state, state, 0, 0
        for look in progress_bar(range(looks), desc=f"updates, round {number + 1}"):
            name = f"round-{number}-{look}"
            indices = np.concatenate(list(sampler.indices(look, 0)))
            record = self.steps.do(
                lambda: self.updates(indices, number, look, at, name),  # noqa: B023
                of=self.print_of(indices),
            )
            self.forwards += 3 * each + len(self.selection)
            better, old = record["loss"] < best, at
            at, bad = name, 0 if better else bad + 1
            if better:
                best, kept, old_best = record["loss"], name, kept
                if old_best not in ("start", old, state):
                    self.states.drop(old_best)
            if old not in (kept, state):
                self.states.drop(old)
            if bad >= update.patience:
                break
        if at not in (kept, state):
            self.states.drop(at)
        return kept, before, best, sampler.report(look + 1)["share"]

    def selection_loss(self, state: str) -> float:
        self.states.be(state)
        return _finite(mean_loss(self.model, self.batches(self.selection), self.loss), None)

    def updates(self, indices: np.ndarray, number: int, look: int, state: str, name: str) -> dict[str, Any]:
        """``eval_every`` updates from ``state`` on ``indices``, kept as ``name``; their selection loss."""
        self.states.be(state)
        self.states.now = ""  # in no named state until the end
        update, optimizer = self.update or UpdateConfig(), self.states.optimizer
        training = self.model.training
        self.model.train()
        with _seeded(seed_of(self.seed, number, look, 4)):
            for part in np.split(indices, update.eval_every):
                total, count = self.loss(self.model, self.batch(self.train, part))
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(total.sum() / count.sum().clamp(min=1))
                optimizer.step()
                if self.states.scheduler is not None:
                    self.states.scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        self.model.train(training)
        self.states.save(name)
        loss = mean_loss(self.model, self.batches(self.selection), self.loss)
        return {"phase": "update", "loss": _finite(loss, None)}

    # ---- data

    def print_of(self, indices: np.ndarray) -> str | None:
        """Fingerprint of training samples, in order; None if they have none."""
        return None if self.prints is None else fingerprint([self.prints[i] for i in indices])

    def exact(self, indices: Any, before: float | None = None) -> np.ndarray:
        singles = (self.batch(self.train, [index]) for index in indices)
        return exact_rewards(self.model, singles, self.validation_batches, self.probe_lr, self.loss, before=before)

    def validation_batches(self) -> Iterator[Any]:
        return self.batches(self.validation)

    def batches(self, data: Any, indices: Any = None) -> Iterator[Any]:
        indices = range(len(data)) if indices is None else indices
        for at in range(0, len(indices), self.batch_size):
            yield self.batch(data, indices[at : at + self.batch_size])

    def batch(self, data: Any, indices: Any) -> Any:
        return make_batch(data, indices, self.collate, self.model)


def _finite(value: float, index: int | None) -> float:
    if not np.isfinite(value):
        what = "selection loss" if index is None else f"reward of sample {index}"
        raise TamisError(f"{what}: {value}: must be finite; lower the learning rate, or look at the data. The search "
                         "goes on from its journal when the cause is removed")  # fmt: skip
    return value


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's global generators seeded inside (dropout), and as they were outside."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for _ in cuda:
            torch.cuda.manual_seed(seed)
        yield
