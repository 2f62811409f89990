"""Equations of DNIS as pure functions; the package's docstring has the symbols."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tamis.core.rng import torch_generator
from tamis.pruners.base import Loss
from tamis.pruners.dnis.config import DNISConfig

__all__ = ["alpha_step", "blocks_by_frequency", "flipped", "normalised", "validation_gradient"]


def blocks_by_frequency(counts: Tensor, blocks: int | Sequence[int], by: str = "count") -> Tensor:
    """The block of each row, rows sorted by frequency; ties by number, so that the order is one and the same.

    Args:
        counts: [n] >= 0, lookups of each row in the training data.
        blocks: how many, or their sizes from head to tail (the other rows are one more block).
        by: ``count`` or ``mass``, for a number of blocks. With ``mass`` and no lookup at all: ``count``.

    Returns:
        [n] int64, 0 for the most frequent; unseen rows are in the last.
    """
    rows = len(counts)
    order = torch.argsort(-counts.double(), stable=True)
    if not isinstance(blocks, int):
        edges = torch.tensor(list(blocks)).cumsum(0)
        of_rank = torch.bucketize(torch.arange(rows), edges, right=True)
    elif by == "mass" and bool(counts.any()):
        sorted_counts = counts.double()[order].cpu()
        before = sorted_counts.cumsum(0) - sorted_counts
        of_rank = (before * blocks / sorted_counts.sum()).long().clamp(max=blocks - 1)
    else:
        of_rank = torch.arange(rows) * min(blocks, rows) // rows
    block = torch.empty(rows, dtype=torch.int64)
    block[order.cpu()] = of_rank
    return block


def normalised(gradient: Tensor, eps: float) -> Tensor:
    """Row-wise normalised gradient, Eq. (8), [L, K]; a row of zeros (a block that was not looked up) stays zero.

    Args:
        gradient: [L, K].
        eps: added to each row's mean |g|.
    """
    size = gradient.abs().mean(1, keepdim=True)
    return torch.where(size > 0, gradient / (size + eps), 0.0)


def alpha_step(alpha: Tensor, direction: Tensor, config: DNISConfig) -> Tensor:
    """Alpha after one step, clipped to [0, 1] (line 9 of Alg. 1); rows of zeros in ``direction`` do not move.

    Args:
        alpha: [L, K] in [0, 1].
        direction: [L, K], `normalised`.
        config: its ``alpha_lr`` and ``l1``.
    """
    moved = alpha - config.alpha_lr * (direction + config.l1)
    return torch.where(direction.abs().sum(1, keepdim=True) > 0, moved.clamp(0, 1), alpha)


def flipped(direction: Tensor, *key: int) -> Tensor:
    """``direction`` [L, K] with each sign drawn anew from the stream ``key``: steps as large, that lead nowhere."""
    signs = torch.randint(2, direction.shape, generator=torch_generator(*key)) * 2 - 1
    return direction * signs.to(direction)


def validation_gradient(
    validation: Loss, alphas: Sequence[Tensor], *, training: Loss | None, weights: Sequence[Tensor], xi: float
) -> list[Tensor]:
    """Gradient of the validation loss by alpha, to first order, or with the look-ahead of Eqs. (6) and (7), corrected.

    d/d alpha L_val(Theta', alpha) - xi x (d2/d alpha d Theta L_train(Theta, alpha)) (d/d Theta' L_val(Theta', alpha)),
    Theta' = Theta - xi d/d Theta L_train(Theta, alpha).

    Args:
        validation: the validation loss with weights and alpha as they are.
        alphas: leaves.
        training: the training loss; needed if ``xi`` is not 0.
        weights: Theta, leaves; changed during the call, and as they were afterwards.
        xi: size of the look-ahead step, >= 0.

    Returns:
        One gradient per alpha; zeros where the loss does not depend on it.
    """
    if xi == 0:
        return _gradients(validation(), alphas)
    if training is None:
        raise ValueError(
            "DNIS.step(): xi > 0 looks ahead on a training batch; give pruner.step(training_loss=lambda: ...) too"
        )
    before = [weight.detach().clone() for weight in weights]
    slopes = _gradients(training(), weights)
    try:
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.sub_(xi * slope)
        found = _gradients(validation(), [*alphas, *weights])
    finally:
        with torch.no_grad():
            for weight, kept in zip(weights, before, strict=True):
                weight.copy_(kept)
    direct, ahead = found[: len(alphas)], found[len(alphas) :]
    graph = torch.autograd.grad(training(), weights, create_graph=True, allow_unused=True)
    pairs = [(slope, along) for slope, along in zip(graph, ahead, strict=True) if slope is not None]
    inner = torch.stack([(slope * along).sum() for slope, along in pairs]).sum()
    return [one - xi * other for one, other in zip(direct, _gradients(inner, alphas), strict=True)]


def _gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, list(leaves), allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]
