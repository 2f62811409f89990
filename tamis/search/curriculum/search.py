"""The rounds of the reinforced curriculum, Algorithm 1: train the agent, select, update the model, again and stricter.

M. Zhao, H. Wu, D. Niu, X. Wang, "Reinforced Curriculum Learning on Pre-trained Neural Machine Translation Models",
AAAI 2020 (thesis, chapter 3). The agent is in `optimizers.actor_critic`, rewards in `samplers.curriculum_gradient`,
features in `samplers.curriculum_state`, selection in `samplers.curriculum`.

| symbol | here | meaning |
|---|---|---|
| K, b_k | ``rounds`` | pool size of each round; (16, 128) in the paper |
| D_T | ``train`` | the data that the model was trained on |
| r | ``reward`` | `curriculum_gradient` |
| D_S | the updates | one of b, until the validation loss stops falling |

**Deviations**: ``reward="first_order"`` (the default) knows the reward of every sample for the price of two forward
passes, so the agent learns from whole pools; a few exact probes check it in each round. ``reward="exact"`` with
``AgentConfig(observe="chosen", steps=20_000)`` is the paper's protocol. The log-likelihoods among the features are
taken anew in each round, because the model has changed. For the same reason the default is four rounds of one in 4, and
not the paper's 16 and 128: a reward speaks of the model as it is, and one of 16 of a few thousand samples are so few
that they are learned by heart at once (the method's card has the figures).

**Unstated** in the paper: which data says that "no improvement is observed". Here ``selection``, apart from the
reward's data; by default every second validation sample.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tamis.core.checks import check_choice, check_int, check_range, check_type
from tamis.core.distributed import rank
from tamis.core.models import evaluating
from tamis.core.progress import progress_bar
from tamis.core.rng import check_seed
from tamis.features.losses import SampleLoss, make_batch, sample_loss_of
from tamis.features.table import FeatureTable
from tamis.policy.base import fingerprint
from tamis.samplers.curriculum.sampler import CurriculumPolicy
from tamis.search.curriculum.actor_critic import AgentConfig
from tamis.search.curriculum.rounds import Rounds, UpdateConfig
from tamis.search.curriculum.states import States, Steps
from tamis.search.journal import Journal

__all__ = ["UpdateConfig", "search_curriculum"]

_UPDATE = UpdateConfig()


def search_curriculum(
    model: nn.Module,
    train: Any,
    validation: Any,
    features: FeatureTable,
    *,
    selection: Any = None,
    collate: Callable[[list[Any]], Any] | None = None,
    loss: str | SampleLoss = "auto",
    reward: str = "first_order",
    rounds: tuple[int, ...] = (4, 4, 4, 4),
    agent: AgentConfig | None = None,
    probe_lr: float = 1e-4,
    lookahead: int = 1,
    lookahead_lr: float = 0.1,
    probes: int = 16,
    candidates: int | None = 4096,
    update: UpdateConfig | None = _UPDATE,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
    batch_size: int = 64,
    describe: Callable[[Any], str] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
) -> CurriculumPolicy:
    """Learn which samples still improve ``model``, and improve it with them, Algorithm 1.

    Args:
        model: a trained model that gives logits; left with the best weights found. With ``update=None`` it is left
            bit for bit as it was.
        train: map-style data set, the candidates.
        validation: map-style data set that the reward is measured on, apart from ``train`` and the test data.
        features: of ``train`` (`curriculum_features`).
        selection: data that decides when to stop; default: every second sample of ``validation``, taken from it.
        collate: a list of items -> a batch; default: torch's.
        loss: as `sample_loss_of`; ``"auto"`` serves classifiers and Hugging Face seq2seq and causal models.
        reward: ``"first_order"`` or ``"exact"``.
        rounds: pool size of each round; each takes features, rewards and agent anew. ``(16, 128)`` is the paper's.
        agent: hyper-parameters of the agent.
        probe_lr: of the SGD step that a reward measures.
        lookahead: 1: a first-order reward uses the validation gradient of the present model, as the paper's step does.
            More: the mean gradient along so many steps of gradient descent on the validation data, which tells apart
            what helps for longer (`path_gradient`); the card has figures for 36.
        lookahead_lr: of those steps; to be lowered if the error says so.
        probes: exact rewards a round that check the first-order ones (with ``lookahead=1`` and a model of at least
            float32); 0 for none.
        candidates: rewards (first order) are taken of that many samples, drawn at random; None: of all.
        update: how the model is updated; None trains the agent only.
        optimizer: the pre-training's, as the paper keeps it; default: a fresh AdamW.
        scheduler: stepped after each update.
        batch_size: samples per forward pass of measuring.
        describe: a training item -> text; the policy then keeps three examples of both ends.
        out: folder; the search goes on from it after an interruption, to the same result. The policy is saved there,
            and with an ``update`` the model's weights (``model.safetensors``, for `safetensors.torch.load_model`).
            Other arguments or data are refused, as far as samples have bytes to compare (not images, nor those that
            differ at each look).
        seed: in [0, 2**63).

    Returns:
        The agent of the last round. Its score is the fall of the selection loss in nats a token (with
        ``update=None``: the agent's mean reward at the end).

    Raises:
        TypeError: an ``agent``, ``update``, ``features`` or ``rounds`` that is none.
        ValueError: empty data, features of other data (another number of samples, or log-likelihoods that are not
            the model's of these samples), a pool larger than the data.
        TamisError: a loss or reward that is not finite, a model without logits or forward-mode derivatives, a journal
            of another search.

    Warns:
        UserWarning: samples that are in two of training, validation and selection data; first-order rewards that the
            exact ones deny.
        NoEffectWarning: no update improved the model.
    """
    agent = AgentConfig() if agent is None else agent
    check_type("agent", agent, AgentConfig, "an AgentConfig, such as AgentConfig(steps=3000), or None")
    check_type("update", update, (UpdateConfig, type(None)), "an UpdateConfig, such as UpdateConfig(lr=1e-4), or None")
    check_type("features", features, FeatureTable, "a FeatureTable; take one by curriculum_features(...)")
    check_type("rounds", rounds, (tuple, list), "a tuple, one pool size a round, such as (4, 4)")
    check_choice("reward", reward, ("first_order", "exact"))
    check_int("probes", probes, low=0)
    check_int("lookahead", lookahead, low=1)
    check_range("lookahead_lr", lookahead_lr, low=0, high=10, open_low=True)
    check_range("probe_lr", probe_lr, low=0, high=1, open_low=True)
    if lookahead > 1 and reward == "exact":
        raise ValueError(f"lookahead={lookahead}: is for reward='first_order'; an exact reward is of one step")
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    if optimizer is not None:
        own = {id(p) for p in model.parameters()}
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ValueError("optimizer: has no parameter of model; pass the one that was made for this model")
    _check_data(train, validation, features, rounds, selection)
    prints = {"training": _prints(train), "validation": _prints(validation), "selection": _prints(selection)}
    _warn_of_overlap(prints)
    seen = _check_features(features, model, train, prints["training"], collate, sample_loss_of(loss))
    if selection is None:
        validation, selection = _every_second(validation, 0), _every_second(validation, 1)
    features = features.select_columns(sorted(features.layout))  # the order in which a policy's file keeps them
    if update is not None and optimizer is None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=update.lr)
    config = {
        "search": "curriculum", "features": features.digest(), "model": fingerprint(dict(model.state_dict())),
        "reward": reward, "agent": str(agent), "probe_lr": probe_lr, "probes": probes, "candidates": candidates,
        "lookahead": [lookahead, lookahead_lr, lookahead > 1 and batch_size], "update": str(update),
        "seed": check_seed(seed), "rounds": list(rounds), "held_out": [len(validation), len(selection)],
        "held_out_data": [fingerprint(prints["validation"]), fingerprint(prints["selection"])],
        "loss": loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__name__),
        "optimizer": type(optimizer).__name__, "scheduler": type(scheduler).__name__,
    }  # fmt: skip
    folder = None if out is None else Path(out)
    run = Rounds(
        model=model, train=train, validation=validation, selection=selection, collate=collate,
        loss=sample_loss_of(loss), reward=reward, agent=agent, probe_lr=probe_lr, probes=probes, lookahead=lookahead,
        lookahead_lr=lookahead_lr, candidates=candidates, update=update, describe=describe, seed=seed, out=folder,
        batch_size=check_int("batch_size", batch_size, low=1),
        steps=Steps(Journal(None if folder is None else folder / "journal.jsonl", config)),
        states=States(model, optimizer, scheduler, None if folder is None else folder / "states"),
        prints=prints["training"], forwards=seen,
    )  # fmt: skip
    policy = run.all_rounds(features, tuple(rounds))
    if folder is not None and rank() == 0:
        policy.save(folder)
        if update is not None:
            _save_weights(model, folder / "model.safetensors")
    return policy


def _save_weights(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save_model

    save_model(model, str(path.with_suffix(".tmp")))  # knows tensors that are shared
    path.with_suffix(".tmp").replace(path)


def _check_data(train: Any, validation: Any, features: FeatureTable, rounds: Any, selection: Any) -> None:
    if not rounds:
        raise ValueError("rounds=(): must name the pool size of at least one round")
    for pool in rounds:
        check_int("rounds", pool, low=2, high=len(train))
    if len(features) != len(train):
        raise ValueError(f"features: of {len(features)} samples, but train has {len(train)}; take its own features")
    if len(validation) < (2 if selection is None else 1) or (selection is not None and not len(selection)):
        raise ValueError(
            f"validation: {len(validation)} samples; must be at least two, one for the reward and one to select by (or "
            "one, and selection= that is not empty)"
        )


def _prints(data: Any) -> list[str] | None:
    """Fingerprint of each sample; None if they have no bytes of their own (images), or others at each look (noise)."""
    if data is None:
        return None
    try:
        prints = [_item_print(data[i]) for i in progress_bar(range(len(data)), desc="fingerprints")]
    except TypeError:
        return None
    return prints if not prints or prints[0] == _item_print(data[0]) else None


def _item_print(item: Any) -> str:
    return fingerprint(item if isinstance(item, dict) else list(item) if isinstance(item, tuple) else item)[-32:]


def _warn_of_overlap(prints: dict[str, list[str] | None]) -> None:
    for one, other in itertools.combinations(prints, 2):
        known = set(prints[other] or ())
        shared = sum(p in known for p in prints[one] or ())
        if shared and rank() == 0:
            warnings.warn(
                f"{shared} {one} samples are {other} samples too: what is measured there will favour them for the "
                "wrong reason; take them out of one of the two",
                UserWarning,
                stacklevel=3,
            )


def _check_features(
    features: FeatureTable, model: nn.Module, train: Any, prints: list[str] | None, collate: Any, loss: SampleLoss
) -> int:
    """Compare a few log-likelihoods with the model's, where `curriculum_features` took them: samples looked at."""
    name = "log_likelihood"
    if prints is None or features.layout.get(name) != ("sum", "per_token"):
        return 0
    places = sorted({len(train) * k // 8 for k in range(8)})
    with evaluating(model), torch.no_grad():
        now = -loss(model, make_batch(train, places, collate, model))[0].double().cpu()
    then = features.column(name, "sum")[places].double()
    finite = torch.isfinite(now)  # else the search itself names the sample
    if not torch.allclose(now[finite], then[finite], rtol=0.05, atol=0.05):  # half precision and padding
        raise ValueError(
            f"features: {name} of samples {places} is not what the model gives them; take the features from this "
            "model and from train in its present order"
        )
    return len(places)


def _every_second(data: Any, start: int) -> Any:
    return torch.utils.data.Subset(data, range(start, len(data), 2))
