"""The rounds of a curriculum search, one after the other: rewards, agent, updates. See `search_curriculum`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tamis.core.distributed import broadcast_object, rank
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import numpy_generator, seed_of
from tamis.features.losses import log_likelihoods
from tamis.features.table import FeatureTable
from tamis.policy.base import DataInfo
from tamis.samplers.curriculum.agent import OTHER_WIDTH, WIDTHS
from tamis.samplers.curriculum.sampler import CLIP, CurriculumPolicy
from tamis.search.curriculum.actor_critic import Trained, standardise, train_agent
from tamis.search.curriculum.config import CurriculumConfig
from tamis.search.curriculum.rewards import Rewards
from tamis.search.curriculum.samples import Samples
from tamis.search.curriculum.states import START, States, Steps
from tamis.search.curriculum.updates import Updates
from tamis.search.run import SearchRun

__all__ = ["Rounds"]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """One search.

    Attributes:
        samples: its data.
        config: its settings.
        run: its folder and journal.
        steps: over the journal.
        states: of model, optimizer and scheduler.
        describe: a training item -> text, or None.
    """

    samples: Samples
    config: CurriculumConfig
    run: SearchRun
    steps: Steps
    states: States
    describe: Callable[[Any], str] | None

    def search(self, features: FeatureTable, forwards: int) -> CurriculumPolicy:
        """All rounds; the agent of the last one. The model is left with the best weights found.

        Args:
            features: of the training data, by the model as it is now.
            forwards: samples that went through the model before.
        """
        update, seed = self.config.update, self.config.seed
        state, first, last = START, None, None
        if update is not None and not self.states.has(state):
            self.states.save(state)
        for number, pool in enumerate(self.config.rounds):
            if update is not None:
                self.states.restore(state)
                if number and "log_likelihood" in features.groups:
                    features = self._renewed(features)
                    forwards += len(self.samples.train)
            rewards = Rewards(self.samples, self.config, self.steps, number)
            policy, score = self._agent(features, rewards, pool)
            forwards += rewards.forwards
            if update is not None:
                updates = Updates(self.samples, update, self.steps, self.states, number=number, seed=seed)
                state, before, last, distinct = updates.run(policy(features), pool, state)
                forwards += updates.forwards
                first = before if first is None else first
                score = first - last
                policy = replace(policy, distinct=distinct)
        if update is not None:
            self.states.restore(state)
            if score <= 0:
                _warn_of_no_effect()
        elif score <= 0:
            _warn_of_no_gain(score)
        budget = {"rounds": len(self.config.rounds), "sample_forwards": forwards}
        facts = {"agreement": rewards.agreement, "loss_before": first, "loss_after": last}
        return replace(policy, search=self.run.info(float(score), budget, **facts))

    def _renewed(self, features: FeatureTable) -> FeatureTable:
        """The features with the log-likelihoods of the model as it is now."""
        samples = self.samples
        values = log_likelihoods(
            samples.model, samples.train, collate=samples.collate, loss=samples.loss, batch_size=samples.batch_size
        )
        return features.with_group("log_likelihood", values, features.layout["log_likelihood"])

    def _agent(self, features: FeatureTable, rewards: Rewards, pool: int) -> tuple[CurriculumPolicy, float]:
        """One round's agent and its mean reward; read from disk if the round was over before."""
        mean, scale = standardise(features.matrix())
        number, reward_of = rewards.number, rewards.by_position()
        folder = (self.run.folder or Path()) / f"round-{number}"
        made: list[CurriculumPolicy] = []

        def train() -> dict[str, Any]:
            x = ((features.matrix()[rewards.chosen] - mean) / scale).clamp(-CLIP, CLIP)
            groups = {name: len(names) for name, names in features.layout.items()}
            found = train_agent(
                x, reward_of, groups, pool=pool, config=self.config.agent, seed=seed_of(self.config.seed, number),
                desc=f"agent, round {number + 1}",
            )  # fmt: skip
            made.append(broadcast_object(self._policy(found, features, pool, mean, scale, x)))
            if self.run.folder is not None and rank() == 0:
                made[0].save(folder)
            return {"phase": "agent", "reward": found.reward}

        # exact probes are steps of their own: after an interruption the agent is trained again from them
        record = train() if self.config.reward == "exact" else self.steps.run(train)
        if not made:
            made.append(broadcast_object(CurriculumPolicy.load(folder) if rank() == 0 else None))  # type: ignore[arg-type]
        return made[0], record["reward"]

    def _policy(
        self, found: Trained, features: FeatureTable, pool: int, mean: Tensor, scale: Tensor, x: Tensor
    ) -> CurriculumPolicy:
        rows = numpy_generator(self.config.seed, 3).permutation(len(x))[:256]
        policy = CurriculumPolicy(
            columns=dict(features.layout),
            widths={name: WIDTHS.get(name, OTHER_WIDTH) for name in features.layout},
            hidden=self.config.agent.hidden,
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
        train, describe = self.samples.train, self.describe
        best, worst = (tuple(describe(train[i])[:200] for i in ends) for ends in (order[:3], order[:-4:-1]))
        return replace(policy, best=best, worst=worst)


def _warn_of_no_effect() -> None:
    warnings.warn(
        "search_curriculum: no update lowered the selection loss; the model is as it was. Lower the learning rate, or "
        "accept that this model has nothing left to gain from this data",
        NoEffectWarning,
        stacklevel=4,
    )


def _warn_of_no_gain(score: float) -> None:
    warnings.warn(
        f"search_curriculum: what the agent chose has a mean reward of {score:.3g}, not above 0: its choice does not "
        "help this model. Train the agent longer, try another reward, or train on the trusted data themselves",
        NoEffectWarning,
        stacklevel=4,
    )
