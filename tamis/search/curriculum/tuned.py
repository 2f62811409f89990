"""What a copy of the model that was tuned on trusted data says of each sample: the reward that sees noise.

Wang et al., 2018 (denoising), arXiv:1809.00068: a sample whose loss falls when the model is tuned on trusted data is
like trusted data. Along gradient descent on that data the sum of the first-order rewards *is* this fall, so that one
tuned copy says at the price of two forward passes what `lookahead` says at four times the cost.

**Deviations**: two copies, each tuned on one half of the trusted data and stopped when the loss of the *other* half
stops falling, and their mean: few trusted samples are learned by heart in a pass or two, and what a copy has learned
by heart says nothing of other samples. That other half also chooses the learning rate among a few.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.core.checks import check_int, check_range
from tamis.core.distributed import broadcast_object, rank
from tamis.core.errors import NoEffectWarning
from tamis.core.models import evaluating
from tamis.core.rng import numpy_generator, seed_of, seeded_globals
from tamis.core.types import Collate, MapDataset
from tamis.features.losses import SampleLoss, log_likelihoods, make_batch, sample_loss_of
from tamis.search.curriculum.gradient import mean_loss

__all__ = ["RATES", "TunedCopies", "loss_changes"]

_BATCH = 32
RATES = (1e-4, 1e-3, 1e-2)  # learning rates of AdamW that serve a large model, a middling and a small one


class TunedCopies:
    """Two copies of a model, each tuned on one half of the trusted data and stopped by the other.

    Args:
        model: is copied as it is now.
        trusted: map-style data set of at least two samples.
        collate: a list of items -> a batch; None: torch's.
        loss: of each sample of a batch.
        lr: of AdamW; None: each of `RATES` is tried, the other half decides.
        passes: at most so many over a half.
        seed: of order and dropout.
        batch_size: samples a forward pass of measuring.

    Attributes:
        forwards: samples that went through a model; a backward pass counts as two.
        passes: that were kept, of each copy; 0: tuning helped nothing.

    Warns:
        NoEffectWarning: it helped neither copy.
    """

    def __init__(
        self,
        model: nn.Module,
        trusted: MapDataset,
        *,
        collate: Collate | None,
        loss: SampleLoss,
        lr: float | None,
        passes: int,
        seed: int,
        batch_size: int,
    ) -> None:
        check_int("trusted", len(trusted), low=2)
        self.model, self.loss = model, loss
        self.trusted, self.collate, self.batch_size = trusted, collate, batch_size
        self.forwards = 0
        self.passes: list[int] = []
        rates = RATES if lr is None else (lr,)
        self.copies = [self._tuned(half, rates, passes, seed_of(seed, half)) for half in range(2)]
        if not any(self.passes) and rank() == 0:
            warnings.warn(
                f"tuning on half of the {len(trusted)} trusted samples lowered the loss of the other half in no pass, "
                f"so the copies are the model and every sample's score is 0: try another learning rate than "
                f"{', '.join(f'{rate:g}' for rate in rates)}, more trusted samples, or accept that they teach this "
                "model nothing",
                NoEffectWarning,
                stacklevel=3,
            )

    def changes(self, batches: Iterable[Any]) -> np.ndarray:
        """By how much each sample's loss per token falls from the model to its tuned copies: float64 [n].

        Args:
            batches: of the samples.
        """
        rows = [np.empty(0)]
        for batch in batches:
            before, *after = (self._losses(model, batch) for model in (self.model, *self.copies))
            rows.append((before - torch.stack(after).mean(0)).cpu().numpy())
        return np.concatenate(rows)

    def _losses(self, model: nn.Module, batch: Any) -> Tensor:
        with evaluating(model), torch.no_grad():
            total, count = self.loss(model, batch)
        return total.double() / count.clamp(min=1)

    def _tuned(self, half: int, rates: tuple[float, ...], passes: int, seed: int) -> nn.Module:
        mine = np.arange(half, len(self.trusted), 2)
        held = np.arange(1 - half, len(self.trusted), 2)
        made = copy.deepcopy(self.model)
        start = copy.deepcopy(made.state_dict())
        best, kept, kept_pass = self._held_loss(made, held), start, 0
        for lr in rates:
            made.load_state_dict(start)
            optimizer, last = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=lr), np.inf
            for number in range(passes):
                self._pass(made, optimizer, numpy_generator(seed, number).permutation(mine), seed_of(seed, number))
                loss = self._held_loss(made, held)
                if loss < best:
                    best, kept, kept_pass = loss, copy.deepcopy(made.state_dict()), number + 1
                if not loss < last:
                    break
                last = loss
        made.load_state_dict(broadcast_object({name: value.cpu() for name, value in kept.items()}))
        self.passes.append(kept_pass)
        return made

    def _pass(self, model: nn.Module, optimizer: torch.optim.Optimizer, order: np.ndarray, seed: int) -> None:
        """One pass of updates over the trusted samples ``order``."""
        with seeded_globals(seed):
            model.train()
            for at in range(0, len(order), _BATCH):
                part = order[at : at + _BATCH]
                total, count = self.loss(model, make_batch(self.trusted, part, self.collate, model))
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(total.sum() / count.sum().clamp(min=1))
                optimizer.step()
        self.forwards += 3 * len(order)

    def _held_loss(self, model: nn.Module, held: np.ndarray) -> float:
        self.forwards += len(held)
        size = self.batch_size
        parts = (held[at : at + size] for at in range(0, len(held), size))
        return mean_loss(model, (make_batch(self.trusted, p, self.collate, model) for p in parts), self.loss)


def loss_changes(
    model: nn.Module,
    data: MapDataset,
    trusted: MapDataset,
    *,
    collate: Collate | None = None,
    loss: str | SampleLoss = "auto",
    lr: float | None = None,
    passes: int = 4,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """By how much each sample's loss falls when a copy of ``model`` is tuned on trusted data; high is clean.

    As scores: ``CurriculumSampler(changes, pool=4)``, ``TrimSampler(-changes, keep=0.7)``; as a column:
    ``features.with_columns({"loss_change": changes})``.

    Args:
        model: in any mode; it is not changed.
        data: map-style data set of the samples to judge.
        trusted: map-style data set of at least two samples, apart from ``data``.
        collate: a list of items -> a batch; default: torch's.
        loss: as `sample_loss_of`.
        lr: of AdamW, which tunes the copies; default: the best of 1e-4, 1e-3 and 1e-2 on the other half.
        passes: at most so many over the trusted data; fewer where the loss of its other half stops falling.
        batch_size: samples a forward pass of measuring.
        seed: of order and dropout while the copies are tuned.

    Returns:
        float32 [n], nats a target token.

    Raises:
        ValueError: fewer than two trusted samples, a setting out of range.
        TamisError: a loss that is not finite (the message names the sample).

    Warns:
        NoEffectWarning: tuning helped neither copy, all changes are 0.
    """
    if lr is not None:
        check_range("lr", lr, low=0, high=1, open_low=True)
    check_int("passes", passes, low=1)
    function = sample_loss_of(loss)
    copies = TunedCopies(
        model, trusted, collate=collate, loss=function, lr=lr, passes=passes, seed=seed, batch_size=batch_size
    )
    models: Sequence[nn.Module] = (model, *copies.copies)
    measure: Callable[[nn.Module], np.ndarray] = lambda m: log_likelihoods(  # noqa: E731
        m, data, collate=collate, loss=function, batch_size=batch_size
    )[:, 1]
    before, *after = map(measure, models)
    return torch.from_numpy(np.mean(after, 0) - before)
