"""The reinforced curriculum as an artefact and as a sampler: one out of b, the one that still improves the model.

M. Zhao, H. Wu, D. Niu, X. Wang, "Reinforced Curriculum Learning on Pre-trained Neural Machine Translation Models",
AAAI 2020 (thesis, chapter 3). What is new there: a small agent learns from the validation loss itself which of b random
training samples to feed to a model that has stopped improving.

| symbol | here | meaning |
|---|---|---|
| mu | ``CurriculumPolicy.agent`` | feature network and actor, see `tamis.samplers.curriculum.agent` |
| b | ``pool`` | candidates of which one is taken |
| D_S | `CurriculumSampler` | n // b samples an epoch |

    sampler = CurriculumSampler(tamis.load_policy("runs/curriculum"), features, seed=0)
    sampler = CurriculumSampler(Rarity(), features, pool=16)              # a hand-written curriculum

**Deviation**: pools are the consecutive stretches of a pseudo-random permutation and not independent draws, so that
within one pass over the data nothing is chosen twice; ``no_repeat`` extends that to several passes.

**Unstated** in the paper: any care for diversity. `CurriculumSampler.report` says how much of what was chosen is
distinct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tamis.core.checks import check_int
from tamis.core.types import Figure
from tamis.features.table import FeatureTable
from tamis.policy.base import Policy, PolicyError, fingerprint, register_policy
from tamis.samplers.base import StatefulSampler
from tamis.samplers.curriculum.agent import AgentNetwork
from tamis.samplers.curriculum.order import best_of, permuted

__all__ = ["CurriculumPolicy", "CurriculumSampler", "best_of", "permuted"]

#: What scores all samples: a policy, one of `tamis.features.scores`, your own; higher is more wanted.
ScoreFunction: TypeAlias = Callable[[FeatureTable], Tensor]

CLIP = 5.0  # deviations beyond which a standardised feature says no more
BLOCK = 1 << 16  # rows scored, and candidates ranked, at once
STREAM = 0x63757272


@register_policy("curriculum")
@dataclass(frozen=True, kw_only=True)
class CurriculumPolicy(Policy):
    """The agent of a search, with the features it wants and how they are standardised.

    Attributes:
        columns: group -> its column names, in the order of the agent's inputs, which is that of the groups' names.
        widths: group -> outputs of its layer in the feature network.
        hidden: widths of the actor's layers.
        pool: b of the round that trained it.
        distinct: share of distinct samples among those that the search chose, in [0, 1].
        best: example samples as text, the agent's favourite first; may be empty.
        worst: the same, least wanted first.
        agent: float32 tensors of the feature network and the actor.
        mean: of each input column, float32 [D].
        scale: of each input column, float32 [D], > 0.
        reference: standardised rows of the training data that `plot` and `summary` average over, float32 [R, D].
    """

    columns: dict[str, tuple[str, ...]]
    widths: dict[str, int]
    hidden: tuple[int, int]
    pool: int
    distinct: float = 1.0
    best: tuple[str, ...] = ()
    worst: tuple[str, ...] = ()
    agent: dict[str, Tensor]
    mean: Tensor
    scale: Tensor
    reference: Tensor

    def __post_init__(self) -> None:
        check_int("pool", self.pool, low=2)
        if not self.columns or self.columns.keys() != self.widths.keys() or not all(self.columns.values()):
            raise ValueError(f"columns={self.columns}: must be one or more groups, each with a width and columns")
        if list(self.columns) != sorted(self.columns):  # JSON has no order of keys, and the agent's layers have one
            raise ValueError(f"columns={list(self.columns)}: must be sorted by name")
        if min((*self.widths.values(), *self.hidden)) < 1:
            raise ValueError(f"widths={self.widths}, hidden={self.hidden}: must be >= 1")
        if not 0 <= self.distinct <= 1:
            raise ValueError(f"distinct={self.distinct}: must lie in [0, 1]")
        size = sum(len(names) for names in self.columns.values())
        shapes = {"mean": (size,), "scale": (size,), "reference": (len(self.reference), size)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.dtype != torch.float32 or value.shape != shape or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name}: must be finite float32 {list(shape)}")
        if not bool((self.scale > 0).all()) or not len(self.reference):
            raise ValueError("scale: must be > 0; reference: must have rows")
        want = {name: tensor.shape for name, tensor in self._empty_agent().state_dict().items()}
        if {name: tensor.shape for name, tensor in self.agent.items()} != want:
            raise ValueError(f"agent: must hold {', '.join(sorted(want))} with the shapes of widths and hidden")
        if any(t.dtype != torch.float32 or not bool(torch.isfinite(t).all()) for t in self.agent.values()):
            raise ValueError("agent: must be finite float32")

    def __call__(self, features: FeatureTable) -> Tensor:
        """The agent's score of every sample, higher is more wanted: float32 [n]; memory does not grow but for that.

        Raises:
            PolicyError: the features are not the ones that the agent was trained on.
        """
        for group, names in self.columns.items():
            got = features.layout.get(group)
            if got != names:
                raise PolicyError(f"features[{group!r}]: must have the columns {names}, got {got}; compute them as the "
                                  "search did")  # fmt: skip
        extra = features.layout.keys() - self.columns.keys()
        if extra:
            raise PolicyError(f"features: the agent knows nothing of {', '.join(sorted(extra))}; leave it out")
        agent = self._agent()
        ordered = features.select_columns(list(self.columns))
        scores = torch.empty(len(features))
        with torch.no_grad():
            for at in range(0, len(features), BLOCK):
                scores[at : at + BLOCK] = agent(self.standardise(ordered.matrix(at, at + BLOCK)))
        return scores

    def standardise(self, matrix: Tensor) -> Tensor:
        """What the agent sees of raw feature rows [n, D].

        Args:
            matrix: raw feature rows, float [n, D].
        """
        return ((matrix - self.mean) / self.scale).clamp(-CLIP, CLIP)

    def partial_dependence(self, points: int = 21) -> dict[str, tuple[Tensor, Tensor]]:
        """Column -> (its values at quantiles of the data, mean score with the column held there), each [points].

        Args:
            points: quantiles at which a column is held, >= 2.
        """
        agent, curves, number = self._agent(), {}, 0
        quantiles = torch.quantile(self.reference, torch.linspace(0, 1, points), 0)
        with torch.no_grad():
            for group, names in self.columns.items():
                for name in names:
                    rows = self.reference.repeat(points, 1, 1)
                    rows[:, :, number] = quantiles[:, number, None]
                    values = quantiles[:, number] * self.scale[number] + self.mean[number]
                    curves[f"{group}.{name}"] = values, agent(rows).mean(1)
                    number += 1
        return curves

    def digest(self) -> str:
        """sha256 over all that decides a score."""
        columns = {name: list(names) for name, names in self.columns.items()}
        return fingerprint(columns, self.widths, list(self.hidden), self.agent, self.mean, self.scale)

    def summary(self) -> str:
        """The policy in words: what it prefers, how diverse its choice was, examples of both ends."""
        curves = self.partial_dependence()
        effects = {name: float(score.max() - score.min()) for name, (_, score) in curves.items()}
        lines = [f"Reinforced curriculum: takes one of {self.pool} candidates by {len(curves)} features"]
        for name in sorted(effects, key=lambda name: -effects[name])[:8]:
            values, scores = curves[name]
            trend = float(scores[-1] - scores[0])
            peak = float(values[int(scores.argmax())])
            word = (
                "high" if trend > 0.8 * effects[name] else "low" if trend < -0.8 * effects[name] else f"near {peak:.3g}"
            )
            lines.append(f"  prefers {name} {word} (effect on the score {effects[name]:.3g})")
        lines.append(f"  {self.distinct:.1%} of the samples chosen in the search were distinct")
        if self.search is not None:
            budget = ", ".join(f"{count:,} {name}" for name, count in sorted(self.search.budget.items()))
            lines += [f"  found by a search of {budget} (seed {self.search.seed})", f"  {self._score_in_words()}"]
        for word, texts in (("most", self.best), ("least", self.worst)):
            lines += [f"  {word} wanted: {text}" for text in texts]
        return "\n".join(lines)

    def _score_in_words(self) -> str:
        search = self.search
        if search is None or search.score is None:
            return "score unknown"
        before, after = search.config.get("loss_before"), search.config.get("loss_after")
        if before is None or after is None:  # the agent alone was trained
            if search.config.get("reward") == "tuned":
                return (
                    f"score {search.score:.3g}: by how much the loss of the agent's choice falls as a copy of the "
                    "model is tuned on trusted data, nats a token (higher is better)"
                )
            return (
                f"score {search.score:.3g}: what one step on the agent's choice takes off the validation loss, nats a "
                "token (higher is better)"
            )
        return (
            f"score {search.score:.4g}: the selection loss fell by so many nats a token, from {before:.4f} to "
            f"{after:.4f} (higher is better; a label counts as one token)"
        )

    def draw(self, figure: Figure) -> None:
        """Partial dependence of the score on the nine features that matter most.

        Args:
            figure: of matplotlib, empty.
        """
        curves = self.partial_dependence()
        top = sorted(curves, key=lambda name: -float(curves[name][1].max() - curves[name][1].min()))[:9]
        rows = (len(top) + 2) // 3
        axes = figure.subplots(rows, min(3, len(top)), sharey=True, squeeze=False)
        for axis, name in zip(axes.flat, top, strict=False):
            axis.plot(curves[name][0].numpy(), curves[name][1].numpy())
            axis.set_title(name, fontsize="small")
        for axis in axes.flat[len(top) :]:
            axis.set_visible(False)
        figure.suptitle("mean score of the agent with one feature held at a value")

    def _empty_agent(self) -> AgentNetwork:
        with torch.device("meta"):
            return AgentNetwork({name: len(names) for name, names in self.columns.items()}, self.hidden, self.widths)

    def _agent(self) -> AgentNetwork:
        agent = self._empty_agent()
        agent.load_state_dict(self.agent, assign=True)
        return agent.eval()


class CurriculumSampler(StatefulSampler):
    """Takes the best of every ``pool`` candidates.

    Epoch e goes on where epoch e - 1 stopped: each pass over the data deals a fresh permutation into pools.

    Args:
        scorer: a `CurriculumPolicy`, a score of `tamis.features.scores` (anything that maps features to scores [n]), or
            the scores themselves, float [n], higher is more wanted; ties go to the first of the pool.
        features: of the data set; not needed with scores.
        num_samples: samples an epoch; default n // pool.
        pool: candidates of which one is taken, 1 <= pool <= n (1 is plain shuffling); default: the policy's.
        no_repeat: passes in which no sample is chosen twice, >= 1: the floor of diversity. A pool whose candidates
            were all chosen before gives its best one again.
        seed: with the epoch it fixes the order.

    Raises:
        ValueError: a score that is not finite, ``pool`` larger than the data.
        PolicyError: features that are not those of the policy.
    """

    def __init__(
        self,
        scorer: ScoreFunction | Tensor,
        features: FeatureTable | None = None,
        num_samples: int | None = None,
        *,
        pool: int | None = None,
        no_repeat: int = 1,
        seed: int = 0,
    ) -> None:
        scores = scorer if isinstance(scorer, Tensor) else None
        if scores is None:
            if features is None:
                raise ValueError("features=None: must be given, unless scorer is a tensor of scores")
            scores = scorer(features)  # type: ignore[operator]
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"scores: must be 1-D with >= 1 values, got {list(scores.shape)}")
        bad = torch.nonzero(~torch.isfinite(scores))
        if len(bad):
            raise ValueError(f"scores[{int(bad[0])}]={float(scores[bad[0, 0]])}: must be finite")
        pool = getattr(scorer, "pool", 16) if pool is None else pool
        self.pool = check_int("pool", pool, low=1)
        if self.pool > len(scores):
            raise ValueError(f"pool={self.pool}: must be <= the {len(scores)} samples of the data")
        self.no_repeat = check_int("no_repeat", no_repeat, low=1)
        self.scores = scores.detach().cpu().float().numpy()
        self.data_size: int = len(scores)
        super().__init__(len(scores) // self.pool if num_samples is None else num_samples, seed=seed)

    def __repr__(self) -> str:
        part = f"1/{self.pool}" if len(self) == self.data_size // self.pool else f"{len(self) / self.data_size:.3g}"
        return (
            f"CurriculumSampler(pool={self.pool}: an epoch is {len(self)} draws, {part} of the {self.data_size} "
            f"samples; seed={self.seed}, epoch={self.epoch})"
        )

    @property
    def pools(self) -> int:
        """Pools in one pass over the data."""
        return self.data_size // self.pool

    def indices(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """The chosen samples of ``epoch`` from position ``start`` on.

        Args:
            epoch: >= 0.
            start: how many are left out, in [0, len].
        """
        at, end = epoch * len(self) + start, (epoch + 1) * len(self)
        step = max(BLOCK // self.pool, 1)
        while at < end:
            number, place = divmod(at, self.pools)
            size = min(step, end - at, self.pools - place)
            if self.no_repeat == 1:
                yield self._choose(number, place, size, None)
            else:
                yield self._pass(number)[place : place + size]
            at += size

    def report(self, epochs: int | None = None) -> dict[str, float]:
        """How diverse the first ``epochs`` (default: up to and with the present one) are.

        Args:
            epochs: how many, >= 1.

        Returns:
            ``chosen``, ``distinct`` (counts), ``share`` = distinct / chosen, and ``of_data`` = distinct / n.
        """
        seen, chosen = np.zeros(self.data_size, bool), 0
        for epoch in range(self.epoch + 1 if epochs is None else check_int("epochs", epochs, low=1)):
            for part in self.indices(epoch, 0):
                seen[part] = True
                chosen += len(part)
        distinct = int(seen.sum())
        return {
            "chosen": chosen,
            "distinct": distinct,
            "share": distinct / chosen,
            "of_data": distinct / self.data_size,
        }

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch and sizes, and a digest of the scores."""
        return {**super().state_dict(), **self._facts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: the state is of a sampler with other scores or sizes.
        """
        for name, value in self._facts().items():
            if state[name] != value:
                raise ValueError(
                    f"{name}={value!r}, but the saved sampler had {state[name]!r}: build it with the policy, the "
                    "features and the arguments it had when the state was saved"
                )
        super().load_state_dict(state)

    def _facts(self) -> dict[str, Any]:
        return {"pool": self.pool, "no_repeat": self.no_repeat, "scores": fingerprint(self.scores)}

    def _choose(self, number: int, place: int, size: int, taken: np.ndarray | None) -> np.ndarray:
        """The best of pools ``place`` .. ``place + size`` of pass ``number``."""
        positions = np.arange(place * self.pool, (place + size) * self.pool, dtype=np.int64)
        candidates = permuted(positions, self.data_size, STREAM, self.seed, number).reshape(size, self.pool)
        scores = self.scores[candidates]
        if taken is not None:
            before = taken[candidates]
            scores = np.where(before & ~before.all(1, keepdims=True), -np.inf, scores)
        chosen: np.ndarray = np.take_along_axis(candidates, scores.argmax(1)[:, None], 1)[:, 0]
        return chosen

    def _pass(self, number: int) -> np.ndarray:
        """All of pass ``number``, knowing what the passes before it in its group chose."""
        taken = np.zeros(self.data_size, bool)
        chosen = np.empty(0, np.int64)
        for earlier in range(number - number % self.no_repeat, number + 1):
            chosen = self._choose(earlier, 0, self.pools, taken)
            taken[chosen] = True
        return chosen
