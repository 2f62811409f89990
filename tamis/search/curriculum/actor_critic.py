"""The agent's training: a deterministic actor-critic that learns which of b samples earns the most.

M. Zhao et al., "Reinforced Curriculum Learning on Pre-trained Neural Machine Translation Models", AAAI 2020 (thesis,
section 3.4.1). A contextual bandit: the reward is immediate, so nothing is bootstrapped.

======== ==================== ================================================================================
symbol   here                 meaning
======== ==================== ================================================================================
b        ``pool``             candidates a step
s        ``features``         standardised features of the candidates, [b, D]; through the shared feature network
a        softmax(scores)      action, [b]; what is executed is its largest
Q_w      ``critic``           value of each candidate given its share of the action, [b]
r        ``rewards``          of the executed candidate (or of all), standardised
delta    in `critic_loss`     r - Q_w(s, a), Eq. (3.4)
======== ==================== ================================================================================

**Deviations**: ``observe="all"`` learns from the rewards of all candidates, where they are cheap to have
(``"chosen"`` is the paper's protocol). Rewards are standardised by those seen so far and cut at 5 deviations.

**Unstated** in the paper, and chosen here:

* The critic's weights are shared over the samples and b changes between rounds, so Q is per sample: a candidate's
  target is a_i r_i, i.e. r for the executed one and 0 for the others ("we assign a reward of 0 to unselected samples").
* What the target network serves, as nothing is bootstrapped: it is the slow copy of feature network and actor that acts
  and that is kept.
* Exploration, which a deterministic actor needs: with probability ``explore``, falling to 0, a uniform candidate.
* Learning rates (Adam, 1e-3), pools per update (16).
* "Best model with the highest sum of rewards during the last 1,000 steps": looked at every ``keep_every`` steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.checks import check_choice, check_int, check_range
from tamis.core.errors import TamisError
from tamis.core.progress import progress_bar
from tamis.core.rng import check_seed, numpy_generator
from tamis.samplers.curriculum.agent import AgentNetwork, Layers, initialise

__all__ = ["AgentConfig", "Trained", "actor_loss", "critic_loss", "standardise", "train_agent"]

CLIP = 5.0  # deviations, of features and rewards
STREAM = 0x61676E74

Rewards = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class AgentConfig:
    """Hyper-parameters of the agent; the paper's where it states them, but for ``steps`` and ``observe``.

    Attributes:
        steps: environment steps, after the warm-up one update each; 20,000 in the paper, which sees one reward a step.
        warm_up: steps with uniform actions and no update.
        replay: pools remembered.
        mix: share of the online weights that the target takes over at each update.
        hidden: widths of actor and critic.
        observe: ``"all"`` rewards of a pool, or only that of the ``"chosen"`` candidate, as in the paper.
        explore: probability of a uniform action at the first step; falls linearly to 0.
        batch: pools per update.
        lr: of Adam, for actor and critic.
        trailing: steps over which rewards are summed to choose the weights that are kept.
        keep_every: steps between two looks at that sum.
    """

    steps: int = 3_000
    warm_up: int = 500
    replay: int = 2_500
    mix: float = 0.1
    hidden: tuple[int, int] = (300, 400)
    observe: str = "all"
    explore: float = 0.3
    batch: int = 16
    lr: float = 1e-3
    trailing: int = 1_000
    keep_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "replay", "batch", "trailing", "keep_every"):
            check_int(name, getattr(self, name), low=1)
        check_int("warm_up", self.warm_up, low=1, high=self.steps)
        if len(self.hidden) != 2 or min(self.hidden) < 1:
            raise ValueError(f"hidden={self.hidden}: must be two widths >= 1")
        check_choice("observe", self.observe, ("all", "chosen"))
        check_range("explore", self.explore, low=0, high=1)
        check_range("mix", self.mix, low=0, high=1, open_low=True)
        check_range("lr", self.lr, low=0, high=1, open_low=True)


@dataclass(frozen=True)
class Trained:
    """What `train_agent` found.

    Attributes:
        scorer: the kept feature network and actor.
        history: mean reward of the trailing window at each look, as given by ``rewards``.
        reward: the best of them.
        observed: number of rewards that were asked for.
    """

    scorer: AgentNetwork
    history: tuple[float, ...]
    reward: float
    observed: int


class Critic(nn.Module):
    """Feature network and Q_w: features [..., b, D] and action [..., b] -> values [..., b]."""

    def __init__(self, scorer: AgentNetwork, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.features = scorer.features  # shared, and moved by the critic's loss only
        self.head = Layers(scorer.features.width, hidden, extra=1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.head(state, action.unsqueeze(-1))
        return value


def critic_loss(critic: Critic, features: Tensor, action: Tensor, reward: Tensor) -> Tensor:
    """Mean squared error of the reward, Eq. (3.4) and (3.5): each candidate's target is its action times its reward.

    Args:
        critic: Q_w with the feature network.
        features: [P, b, D].
        action: [P, b] in [0, 1].
        reward: [P, b]; where the action is 0 it does not matter.
    """
    delta = action * reward - critic(critic.features(features), action)  # Eq. (3.4)
    error: Tensor = delta.square().mean()
    return error


def actor_loss(scorer: AgentNetwork, critic: Critic, features: Tensor) -> Tensor:
    """Minus the critic's value of the actor's own action, Eq. (3.6); no gradient reaches the feature network.

    Args:
        scorer: mu.
        critic: Q_w.
        features: [P, b, D].
    """
    with torch.no_grad():
        state = scorer.features(features)
    action = scorer.actor(state).softmax(-1)
    value: Tensor = critic(state, action).sum(-1).mean()
    return -value


def standardise(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each column [n, D] -> ([D], [D]); a column without variation has scale 1.

    Args:
        features: float [n, D].
    """
    values = features.double()
    scale = values.std(0, unbiased=False)
    return values.mean(0).float(), torch.where(scale > 1e-12, scale, 1.0).float()


def train_agent(
    features: Tensor,
    rewards: Rewards,
    groups: dict[str, int],
    *,
    pool: int = 16,
    config: AgentConfig | None = None,
    seed: int = 0,
    desc: str = "agent",
) -> Trained:
    """Train the agent; a pure function of its arguments.

    Args:
        features: standardised features of the whole data [n, D], float32.
        rewards: indices int64 [K] -> their rewards [K], finite; asked for whole pools (``observe="all"``) or for one.
        groups: name -> number of columns, in order, D in sum.
        pool: b, candidates a step, 2 <= b <= n.
        config: hyper-parameters.
        seed: in [0, 2**63).
        desc: name on the progress bar.

    Raises:
        TamisError: a reward is not finite.
        ValueError: ``pool`` is larger than the data.
    """
    config = config or AgentConfig()
    check_int("pool", pool, low=2)
    if pool > len(features):
        raise ValueError(f"pool={pool}: must be <= the {len(features)} samples of the data")
    learner = _Learner(features, groups, config, check_seed(seed), pool)
    generator = numpy_generator(STREAM, seed, pool)
    history: list[float] = []
    window: list[float] = []
    best: tuple[float, AgentNetwork | None] = (-np.inf, None)
    observed = 0
    for step in progress_bar(range(config.steps), desc=desc):
        candidates = generator.choice(len(features), pool, replace=False, shuffle=False)
        uniform, draw, other = generator.random(), generator.integers(pool), generator.integers(2**62)
        random = step < config.warm_up or uniform < config.explore * (1 - step / config.steps)
        chosen = int(draw) if random else learner.act(candidates)
        asked = candidates if config.observe == "all" else candidates[chosen : chosen + 1]
        reward = _finite(rewards(asked), asked)
        observed += len(asked)
        learner.remember(step, candidates, chosen, reward)
        window = [*window, float(reward[chosen if config.observe == "all" else 0])][-config.trailing :]
        if step >= config.warm_up:
            learner.update(int(other))
            if (step + 1) % config.keep_every == 0 or step + 1 == config.steps:
                history.append(float(np.mean(window)))
                if history[-1] >= best[0]:
                    best = history[-1], copy.deepcopy(learner.target)
    return Trained(best[1] or learner.target, tuple(history), best[0] if history else float(np.mean(window)), observed)


class _Learner:
    """Networks, replay buffer and the running scale of the rewards."""

    def __init__(self, features: Tensor, groups: dict[str, int], config: AgentConfig, seed: int, pool: int) -> None:
        self.features, self.config = features, config
        self.scorer = AgentNetwork(groups, config.hidden)
        self.critic = Critic(self.scorer, config.hidden)
        initialise(self.scorer, STREAM, seed, 0)
        initialise(self.critic.head, STREAM, seed, 1)
        self.target = copy.deepcopy(self.scorer)
        self.of_actor = torch.optim.Adam(self.scorer.actor.parameters(), lr=config.lr, fused=True)
        self.of_critic = torch.optim.Adam(self.critic.parameters(), lr=config.lr, fused=True)
        self.pools = np.zeros((config.replay, pool), np.int64)
        self.rewards = np.zeros((config.replay, pool))
        self.chosen = np.zeros(config.replay, np.int64)
        self.count = 0

    def act(self, candidates: np.ndarray) -> int:
        with torch.no_grad():
            return int(self.target(self.features[torch.from_numpy(candidates)]).argmax())

    def remember(self, step: int, candidates: np.ndarray, chosen: int, reward: np.ndarray) -> None:
        at = step % self.config.replay
        self.pools[at], self.chosen[at] = candidates, chosen
        self.rewards[at] = reward if self.config.observe == "all" else 0.0
        self.rewards[at, chosen] = reward[chosen if self.config.observe == "all" else 0]
        self.count = min(step + 1, self.config.replay)

    def update(self, seed: int) -> None:
        generator = numpy_generator(seed)
        rows = generator.integers(0, self.count, self.config.batch)
        x = self.features[torch.from_numpy(self.pools[rows])]
        seen = self.rewards[: self.count]
        taken = np.arange(self.count), self.chosen[: self.count]
        known = seen if self.config.observe == "all" else seen[taken]
        scale = max(float(known.std()), 1e-30)
        reward = np.clip((self.rewards[rows] - known.mean()) / scale, -CLIP, CLIP)
        if self.config.observe == "all":
            action = generator.random(reward.shape)  # a_i r_i is known for every a_i
        else:
            action = np.zeros(reward.shape)
            action[np.arange(len(rows)), self.chosen[rows]] = 1.0
        self._step(self.of_critic, critic_loss(self.critic, x, _tensor(action), _tensor(reward)))
        self._step(self.of_actor, actor_loss(self.scorer, self.critic, x))
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.scorer.parameters(), strict=True):
                slow.lerp_(fast, self.config.mix)

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _finite(values: np.ndarray, indices: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise TamisError(
            f"reward of sample {indices[bad[0]]}: {values[bad[0]]}: must be finite; lower the probe's lr or look at it"
        )
    return values
