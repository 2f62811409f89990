"""The search of LA3: for each label, which triples of image operations suit it.

"LA3: Efficient Label-Aware AutoAugment", Zhao et al., ECCV 2022; chapter 4 of M. Zhao's thesis. What is new there: a
policy for each label, found by one shared predictor from one pass over the reward images an iteration.

========= ============================= =======================================================================
symbol    here                          meaning
========= ============================= =======================================================================
theta     ``model``                     trained without the reward images
D_val     ``val_data``                  reward images, neither selection nor test data
T, T_0    ``iterations``, ``warmup``    all iterations, and how many of them try random triples: 500, 100
tau       row of `SPACE`                a triple; its order is drawn for each image, because f does not see it
r         `RewardImages.rewards`        Eq. (4.4)
f         `Predictor`                   r~ of every triple for every label
A         `SPACE`                       the 816 combinations of three of the 16 operations
N_cand    ``triples``                   triples a label in the policy: 100
alpha     ``alpha``                     weight of redundancy, Eq. (4.5): 2.5 (the authors' code: 5, see `mrmr`)
========= ============================= =======================================================================

**Deviations**: the predictor is trained anew every ``refit_every`` iterations and the best candidates of that fit are
tried until the next, as in the authors' code (10); ``refit_every=1`` is the text. Candidates are combinations, not
ordered triples. Labels with few reward images are drawn towards the mean of all labels: r~ becomes
n / (n + shrinkage) r~ + shrinkage / (n + shrinkage) times the mean, and a label without any gets the mean.

**Unstated** in the text: "according to their real reward values" (explored candidates are drawn with probability
proportional to the reward shifted to begin at 0); what is mutated (``parents="last"``, the triples of the latest
iterations, is the text; ``"best"``, the five best so far, is the authors' code).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.errors import NoEffectWarning
from tamis.core.rng import numpy_generator, seed_of
from tamis.core.types import PathOrStr
from tamis.optimizers.mrmr import counts, select
from tamis.optimizers.predictor import Predictor
from tamis.policy.base import DataInfo, SearchInfo, fingerprint
from tamis.search.label_aware.config import SPACE, LabelAwareConfig
from tamis.search.label_aware.data import warn_of_chance, warn_of_empty
from tamis.search.label_aware.reward import RewardImages, scaled
from tamis.search.run import SearchRun
from tamis.transforms.images.ops import IDENTITY, OPERATIONS
from tamis.transforms.label_aware.policy import LabelAwarePolicy

__all__ = ["SPACE", "build_policy", "known_rewards", "search_triples", "triples_policy"]

_PLACES = {tuple(row): place for place, row in enumerate(SPACE.tolist())}
_BEST = 5  # parents of mutations with parents="best"


def search_triples(
    model: nn.Module,
    val_data: Any,
    names: tuple[str, ...],
    config: LabelAwareConfig,
    *,
    prepare: Callable[[Tensor], Tensor] = scaled,
    out: PathOrStr | None = None,
) -> LabelAwarePolicy:
    """Algorithms 2 and 3: `search_label_aware` with ``base="triples"``.

    Args:
        model: classifier trained on data without ``val_data``.
        val_data: reward images.
        names: the classes'.
        config: the settings.
        prepare: from uint8 [B, C, H, W] to the model's input.
        out: folder for the journal and the policy.
    """
    groups = np.arange(len(names)) if config.label_aware else np.zeros(len(names), dtype=np.int64)
    images = RewardImages(
        model, val_data, groups, prepare=prepare, reward=config.reward, batch_size=config.batch_size,
        repeats=config.repeats, seed=config.seed,
    )  # fmt: skip
    warn_of_empty(images.labels, names, "the mean of all others")
    warn_of_chance(float(images.clean().sum()) / len(images), len(images), len(names))
    data = {
        "model": fingerprint(dict(model.state_dict())),
        "data": images.fingerprint,
        "classes": list(names),
        "clean": [round(float(total), 3) for total in images.clean()],  # tells another prepare=
    }
    stage = _Exploration(images, config)
    with SearchRun("label_aware", config, out, data=data) as run:
        records = run.trials(
            stage.evaluate, stage.propose, trials=config.iterations, initial=config.warmup,
            parallel=config.refit_every, spread=False, desc="label-aware search",
        )  # fmt: skip
        if all(value == 0 for record in records for value in record["rewards"]):
            warnings.warn(
                "no triple changed any prediction, so the policy is arbitrary; is the model trained, and prepare= "
                "right?",
                NoEffectWarning,
                stacklevel=4,
            )
        expected = _shrunk(stage.predict(records), images.counts, config.shrinkage)[groups]
        chosen = select(expected, SPACE, config.triples, alpha=config.alpha)
        forwards = len(images) * (config.iterations * config.repeats + 1)
        info = run.info(
            float(np.take_along_axis(expected, chosen, 1).mean()),
            {"trials": config.iterations, "sample_forwards": forwards},
            reward_images=len(images),
        )
        return run.finish(triples_policy(names, expected, chosen, info))


def build_policy(policy: LabelAwarePolicy, *, triples: int = 100, alpha: float = 2.5) -> LabelAwarePolicy:
    """Stage 2 again, with another size or alpha, from the rewards that a searched policy remembers.

    Args:
        policy: searched.
        triples: as `search_label_aware`.
        alpha: as `search_label_aware`.

    Raises:
        ValueError: the policy does not know its rewards (`LabelAwarePolicy.from_authors`).
    """
    expected = known_rewards(policy)
    return triples_policy(policy.classes, expected, select(expected, SPACE, triples, alpha=alpha), policy.search)


class _Exploration:
    """Stage 1, Algorithm 2: which triples to try, and what they gave."""

    def __init__(self, images: RewardImages, config: LabelAwareConfig) -> None:
        self.images, self.config, self.seed = images, config, config.seed
        self.groups = len(images.counts)
        self.counts = torch.from_numpy(counts(SPACE, len(OPERATIONS)))

    def evaluate(self, number: int, point: np.ndarray) -> dict[str, Any]:
        """One pass: the reward of one triple a group. ``point``: places in `SPACE`, [G]."""
        rewards = self.images.rewards(number, SPACE[point.astype(np.int64)])
        return {"score": float(rewards @ self.images.counts / len(self.images)), "rewards": rewards.tolist()}

    def propose(self, past: list[dict[str, Any]], count: int) -> np.ndarray:
        """The next triples of every group: places in `SPACE`, int64 [count, G]."""
        if not past:
            warm = [numpy_generator(self.seed, 0, group).permutation(len(SPACE)) for group in range(self.groups)]
            return np.stack([np.resize(order, count) for order in warm], axis=1)
        predicted = self.predict(past)
        tried, rewards = (np.array([record[key] for record in past]) for key in ("point", "rewards"))
        columns = [
            self._best(tried[:, group].astype(np.int64), rewards[:, group], predicted[group], count, group)
            for group in range(self.groups)
        ]
        return np.stack(columns, axis=1)

    def predict(self, records: list[dict[str, Any]]) -> np.ndarray:
        """r~ of a predictor trained from scratch on all records: float64 [G, 816]."""
        seen = self.images.counts > 0
        sets, rewards = (torch.tensor([record[key] for record in records])[:, seen] for key in ("point", "rewards"))
        groups = torch.arange(self.groups)[torch.from_numpy(seen)].expand(len(records), -1)
        network = Predictor(self.counts, self.groups, self.config.predictor, seed=seed_of(self.seed, 1, len(records)),
                            silent=IDENTITY)  # fmt: skip
        network.fit(sets.long().flatten(), groups.flatten(), rewards.flatten())
        return network.predict().double().numpy()

    def _best(
        self, tried: np.ndarray, rewards: np.ndarray, predicted: np.ndarray, count: int, group: int
    ) -> np.ndarray:
        """The ``count`` candidates of one group that the predictor likes best."""
        rng = numpy_generator(self.seed, 2, len(tried), group)
        mutated, unseen, explored = self.config.candidates
        best = np.argsort(-rewards, kind="stable")[:_BEST]
        pool = tried[best] if self.config.parents == "best" else tried[-count:]
        found = [_mutate(int(rng.choice(pool)), rng) for _ in range(mutated)]
        rest = np.setdiff1d(np.arange(len(SPACE)), tried)
        found += rng.choice(rest, min(unseen, len(rest)), replace=False).tolist()
        shifted = rewards - rewards.min() + 1e-12
        found += rng.choice(tried, explored, p=shifted / shifted.sum()).tolist()
        distinct = np.unique(np.array(found, dtype=np.int64))
        ranked = distinct[np.argsort(-predicted[distinct], kind="stable")]
        return np.resize(ranked, count)


def _mutate(place: int, rng: np.random.Generator) -> int:
    """Another combination: one or two of the three operations replaced by random ones."""
    triple = SPACE[place].copy()
    at = rng.permutation(3)[: rng.integers(1, 3)]
    triple[at] = rng.integers(0, len(OPERATIONS), len(at))
    return _PLACES[tuple(sorted(triple.tolist()))]


def _shrunk(predicted: np.ndarray, images: np.ndarray, shrinkage: float) -> np.ndarray:
    """Rewards drawn towards the mean over all images, the more the fewer images a group has."""
    shared = images @ predicted / images.sum()
    trust = np.where(images > 0, images / np.maximum(images + shrinkage, 1e-12), 0.0)[:, None]
    result: np.ndarray = trust * predicted + (1 - trust) * shared
    return result


def triples_policy(
    names: tuple[str, ...], expected: np.ndarray, chosen: np.ndarray, info: SearchInfo | None
) -> LabelAwarePolicy:
    """The policy of chosen places in `SPACE`, [L, N], with the expected rewards, [L, 816]."""
    return LabelAwarePolicy(
        classes=names,
        triples=torch.from_numpy(SPACE[chosen].astype(np.uint8)),
        rewards=torch.from_numpy(expected.astype(np.float32)),
        data=DataInfo(classes=names),
        search=info,
    )


def known_rewards(policy: LabelAwarePolicy) -> np.ndarray:
    """The rewards that a searched policy remembers: float64 [L, 816]."""
    if policy.rewards.numel() == 0:
        raise ValueError("policy.rewards: are not known; only a searched policy remembers them")
    return policy.rewards.double().numpy()
