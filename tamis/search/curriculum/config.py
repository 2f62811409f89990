"""The settings of a curriculum search."""

from __future__ import annotations

from dataclasses import dataclass, field

from tamis.core.checks import check_choice, check_int, check_range, check_type
from tamis.core.rng import check_seed
from tamis.search.curriculum.actor_critic import AgentConfig
from tamis.search.run import adjustable

__all__ = ["CurriculumConfig", "UpdateConfig"]


@dataclass(frozen=True)
class UpdateConfig:
    """How the model is updated with what the agent chose.

    Attributes:
        batch_size: chosen samples per update.
        lr: of AdamW, used unless an optimizer is given.
        eval_every: updates between two looks at the selection loss.
        patience: looks without improvement after which a round ends.
        max_updates: of one round.
        mix: share of each update's samples that are trusted ones, where ``trusted=`` is given; in [0, 1).
    """

    batch_size: int = 16
    lr: float = 1e-4
    eval_every: int = 50
    patience: int = 3
    max_updates: int = 2_000
    mix: float = 0.25

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_every", "patience"):
            check_int(name, getattr(self, name), low=1)
        check_int("max_updates", self.max_updates, low=self.eval_every)
        check_range("lr", self.lr, low=0, high=1, open_low=True)
        check_range("mix", self.mix, low=0, high=1, open_high=True)


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Settings of `search_curriculum`.

    Attributes:
        reward: ``"tuned"``: by how much a sample's loss falls when a copy of the model is tuned on trusted data (or, if
            there is none, on validation data), see `TunedCopies`. ``"first_order"``: what one gradient step on the
            sample takes off the validation loss; ``"exact"``: the same, measured.
        rounds: pool size of each round; each takes features, rewards and agent anew. ``(16, 128)`` is the paper's.
        agent: hyper-parameters of the agent.
        probe_lr: of the SGD step that a reward measures.
        lookahead: 1: a first-order reward uses the validation gradient of the present model, as the paper's step does.
            More: the mean gradient along so many steps of gradient descent on the validation data, which tells apart
            what helps for longer (`path_gradient`); the card has figures for 36.
        lookahead_lr: of those steps; to be lowered if the error says so.
        tune_lr: of AdamW, which tunes the copies of ``reward="tuned"``; None: the best of three on the half of the data
            that a copy is not tuned on.
        tune_passes: of theirs over their half of the data, at most.
        probes: exact rewards a round that check the first-order ones (with ``lookahead=1`` and a model of at least
            float32); 0 for none.
        candidates: rewards (but exact ones) are taken of that many samples, drawn at random; None: of all.
        update: how the model is updated; None trains the agent only.
        batch_size: samples a forward pass of measuring.
        seed: in [0, 2**63).
    """

    reward: str = "tuned"
    rounds: tuple[int, ...] = (4, 4, 4, 4)
    agent: AgentConfig = field(default_factory=AgentConfig)
    probe_lr: float = 1e-4
    lookahead: int = 1
    lookahead_lr: float = 0.1
    tune_lr: float | None = None
    tune_passes: int = 4
    probes: int = 16
    candidates: int | None = 4096
    update: UpdateConfig | None = field(default_factory=UpdateConfig)
    batch_size: int = adjustable(64)
    seed: int = 0

    def __post_init__(self) -> None:
        check_type("agent", self.agent, AgentConfig, "an AgentConfig, such as AgentConfig(steps=3000), or None")
        kinds = (UpdateConfig, type(None))
        check_type("update", self.update, kinds, "an UpdateConfig, such as UpdateConfig(lr=1e-4), or None")
        check_type("rounds", self.rounds, (tuple, list), "a tuple, one pool size a round, such as (4, 4)")
        if not self.rounds:
            raise ValueError("rounds=(): must name the pool size of at least one round")
        object.__setattr__(self, "rounds", tuple(check_int("rounds", pool, low=2) for pool in self.rounds))
        check_choice("reward", self.reward, ("tuned", "first_order", "exact"))
        check_int("probes", self.probes, low=0)
        check_int("tune_passes", self.tune_passes, low=1)
        if self.tune_lr is not None:
            check_range("tune_lr", self.tune_lr, low=0, high=1, open_low=True)
        check_int("lookahead", self.lookahead, low=1)
        check_int("batch_size", self.batch_size, low=1)
        if self.candidates is not None:
            check_int("candidates", self.candidates, low=1)
        check_range("lookahead_lr", self.lookahead_lr, low=0, high=10, open_low=True)
        check_range("probe_lr", self.probe_lr, low=0, high=1, open_low=True)
        check_seed(self.seed)
        if self.lookahead > 1 and self.reward != "first_order":
            raise ValueError(
                f"lookahead={self.lookahead}: is for reward='first_order'; an exact reward is of one step, a tuned one "
                "of tune_passes"
            )
