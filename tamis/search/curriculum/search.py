"""The rounds of the reinforced curriculum, Algorithm 1: train the agent, select, update the model, again and stricter.

M. Zhao, H. Wu, D. Niu, X. Wang, "Reinforced Curriculum Learning on Pre-trained Neural Machine Translation Models",
AAAI 2020 (thesis, chapter 3). The agent is in `actor_critic` beside it, rewards in `gradient`, features in
`tamis.features`, selection in `tamis.samplers.curriculum`.

| symbol | here | meaning |
|---|---|---|
| K, b_k | ``rounds`` | pool size of each round; (16, 128) in the paper |
| D_T | ``train`` | the data that the model was trained on |
| r | ``reward`` | `gradient` |
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

from tamis.core.checks import check_int, check_type
from tamis.core.distributed import rank
from tamis.core.files import replace_file
from tamis.core.models import evaluating
from tamis.core.progress import progress_bar
from tamis.core.types import Collate, MapDataset, PathOrStr
from tamis.features.losses import SampleLoss, make_batch, sample_loss_of
from tamis.features.table import FeatureTable
from tamis.policy.base import fingerprint
from tamis.samplers.curriculum.sampler import CurriculumPolicy
from tamis.search.curriculum.actor_critic import AgentConfig
from tamis.search.curriculum.config import CurriculumConfig, UpdateConfig
from tamis.search.curriculum.rounds import Rounds
from tamis.search.curriculum.samples import Samples
from tamis.search.curriculum.states import SchedulerLike, States, Steps
from tamis.search.run import SearchRun

__all__ = ["search_curriculum"]

_UPDATE = UpdateConfig()


def search_curriculum(
    model: nn.Module,
    train: MapDataset,
    validation: MapDataset,
    features: FeatureTable,
    *,
    selection: MapDataset | None = None,
    trusted: MapDataset | None = None,
    collate: Collate | None = None,
    loss: str | SampleLoss = "auto",
    reward: str | None = None,
    rounds: tuple[int, ...] = (4, 4, 4, 4),
    agent: AgentConfig | None = None,
    probe_lr: float = 1e-4,
    lookahead: int = 1,
    lookahead_lr: float = 0.1,
    tune_lr: float | None = None,
    tune_passes: int = 4,
    probes: int = 16,
    candidates: int | None = 4096,
    update: UpdateConfig | None = _UPDATE,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: SchedulerLike | None = None,
    batch_size: int = 64,
    describe: Callable[[Any], str] | None = None,
    out: PathOrStr | None = None,
    seed: int = 0,
) -> CurriculumPolicy:
    """Learn which samples still improve ``model``, and improve it with them, Algorithm 1.

    Args:
        model: a trained model that gives logits; left with the best weights found (``update=None``: as it was).
        train: map-style data set, the candidates.
        validation: map-style data set that rewards are measured on, apart from ``train`` and the test data.
        features: of ``train`` (`curriculum_features`).
        selection: data that decides when to stop; default: every second sample of ``validation``, taken from it.
        trusted: data known to be good: copies are tuned on it and the updates train on it too (``UpdateConfig.mix``).
            Apart from the others.
        collate: a list of items -> a batch; default: torch's.
        loss: as `sample_loss_of`; ``"auto"`` serves classifiers and Hugging Face seq2seq and causal models.
        reward: ``"tuned"`` (the fall of a sample's loss as copies are tuned on the trusted data, or on the validation
            data), ``"first_order"`` or ``"exact"``; default: tuned, or first order with ``lookahead`` > 1. This and the
            other settings in full: `CurriculumConfig`.
        rounds: pool size of each round. ``(16, 128)`` is the paper's.
        agent: hyper-parameters of the agent.
        probe_lr: of the SGD step that first-order and exact rewards measure.
        lookahead: steps on the validation data over which first-order rewards are summed.
        lookahead_lr: of those steps.
        tune_lr: of AdamW, which tunes the copies; default: the best of three.
        tune_passes: of theirs, at most.
        probes: exact rewards a round that check the first-order ones; 0 for none.
        candidates: rewards are taken of that many samples, drawn at random; None: of all.
        update: how the model is updated; None trains the agent only.
        optimizer: the pre-training's, as the paper keeps it; default: a fresh AdamW.
        scheduler: stepped after each update.
        batch_size: samples per forward pass of measuring.
        describe: a training item -> text; the policy then keeps three examples of both ends.
        out: folder of policy, weights (``model.safetensors``) and journal, from which an interrupted search goes on to
            the same result. Other arguments or data are refused, as far as samples have bytes to compare.
        seed: in [0, 2**63).

    Returns:
        The agent of the last round. Its score is the fall of the selection loss (``update=None``: its mean reward).

    Raises:
        TypeError: an ``agent``, ``update``, ``features`` or ``rounds`` of another type.
        ValueError: empty data, features of other data, a pool larger than the data, a setting out of range.
        TamisError: values that are not finite, a model without logits, a journal of another search.

    Warns:
        UserWarning: samples in two of the data sets; first-order rewards that exact ones deny.
        NoEffectWarning: no update improved the model, or (``update=None``) a score not above 0.
    """
    reward = reward or ("tuned" if lookahead == 1 else "first_order")
    config = CurriculumConfig(
        reward=reward, rounds=rounds, agent=AgentConfig() if agent is None else agent, probe_lr=probe_lr,
        lookahead=lookahead, lookahead_lr=lookahead_lr, tune_lr=tune_lr, tune_passes=tune_passes, probes=probes,
        candidates=candidates, update=update, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    return _search(
        config, model, train, validation, features, selection=selection, trusted=trusted, collate=collate, loss=loss,
        optimizer=optimizer, scheduler=scheduler, describe=describe, out=out,
    )  # fmt: skip


def _search(
    config: CurriculumConfig,
    model: nn.Module,
    train: MapDataset,
    validation: MapDataset,
    features: FeatureTable,
    *,
    selection: MapDataset | None,
    trusted: MapDataset | None,
    collate: Collate | None,
    loss: str | SampleLoss,
    optimizer: torch.optim.Optimizer | None,
    scheduler: SchedulerLike | None,
    describe: Callable[[Any], str] | None,
    out: PathOrStr | None,
) -> CurriculumPolicy:
    """`search_curriculum` under ``config``."""
    check_type("features", features, FeatureTable, "a FeatureTable; take one by curriculum_features(...)")
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    _check_optimizer(optimizer, model)
    _check_data(train, validation, features, config.rounds, selection, trusted)
    sets = {"training": train, "validation": validation, "selection": selection, "trusted": trusted}
    prints = {name: _prints(data) for name, data in sets.items()}
    _warn_of_overlap(prints)
    forwards = _check_features(features, model, train, prints["training"], collate, sample_loss_of(loss))
    if selection is None:
        validation, selection = _every_second(validation, 0), _every_second(validation, 1)
    if config.update is not None and optimizer is None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=config.update.lr)
    samples = Samples(
        model=model, train=train, validation=validation, selection=selection, collate=collate, trusted=trusted,
        loss=sample_loss_of(loss), batch_size=config.batch_size, prints=prints["training"],
    )  # fmt: skip
    features = _in_file_order(features)
    data = {
        "features": features.digest(), "model": fingerprint(dict(model.state_dict())),
        "held_out": [len(validation), len(selection)],
        "held_out_data": [fingerprint(prints["validation"]), fingerprint(prints["selection"])],
        "trusted": None if trusted is None else [len(trusted), fingerprint(prints["trusted"])],
        "loss": loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__name__),
        "optimizer": type(optimizer).__name__, "scheduler": type(scheduler).__name__,
        "path_batch": config.batch_size if config.lookahead > 1 else None,  # the steps ahead are of such batches
    }  # fmt: skip
    with SearchRun("curriculum", config, out, data=data) as run:
        states = States(model, optimizer, scheduler, None if run.folder is None else run.folder / "states")
        work = Rounds(
            samples=samples, config=config, run=run, steps=Steps(run.open()), states=states, describe=describe
        )
        policy = work.search(features, forwards)
        return run.finish(policy, also=None if config.update is None else lambda folder: _save_weights(model, folder))


def _in_file_order(features: FeatureTable) -> FeatureTable:
    """The groups in the order in which a policy's file keeps them."""
    return features.select_columns(sorted(features.layout))


def _check_optimizer(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> None:
    if optimizer is None:
        return
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer: has no parameter of model; pass the one that was made for this model")


def _save_weights(model: nn.Module, folder: Path) -> None:
    from safetensors.torch import save_model

    replace_file(folder / "model.safetensors", lambda path: save_model(model, str(path)))  # knows shared tensors


def _check_data(
    train: MapDataset,
    validation: MapDataset,
    features: FeatureTable,
    rounds: tuple[int, ...],
    selection: MapDataset | None,
    trusted: MapDataset | None = None,
) -> None:
    for pool in rounds:
        check_int("rounds", pool, low=2, high=len(train))
    if len(features) != len(train):
        raise ValueError(f"features: of {len(features)} samples, but train has {len(train)}; take its own features")
    if len(validation) < (2 if selection is None else 1) or (selection is not None and not len(selection)):
        raise ValueError(
            f"validation: {len(validation)} samples; must be at least two, one for the reward and one to select by (or "
            "one, and selection= that is not empty)"
        )
    if trusted is not None and len(trusted) < 2:
        raise ValueError(f"trusted: {len(trusted)} samples; must be at least two, or None")


def _prints(data: MapDataset | None) -> list[str] | None:
    """Fingerprint of each sample; None if they have no bytes of their own (images), or others at each look (noise)."""
    if data is None:
        return None
    try:
        prints = [_item_print(data[i]) for i in progress_bar(range(len(data)), desc="fingerprints")]
    except TypeError:
        return None
    return prints if not prints or prints[0] == _item_print(data[0]) else None


def _item_print(item: object) -> str:
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
    features: FeatureTable,
    model: nn.Module,
    train: MapDataset,
    prints: list[str] | None,
    collate: Collate | None,
    loss: SampleLoss,
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


def _every_second(data: MapDataset, start: int) -> MapDataset:
    return torch.utils.data.Subset(data, range(start, len(data), 2))  # type: ignore[arg-type]
