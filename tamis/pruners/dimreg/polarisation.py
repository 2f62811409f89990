"""Equations of polarisation: how gates are pushed apart, and where the split between them lies.

Pure functions over flat float tensors; `tamis.pruners.dimreg.pruner` has the citation, the symbol table and the class.
A gate phi lies in (0, 1); n gates of all tables stand in one vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "given_gradient",
    "kept_share",
    "mirror_step",
    "pair_polarisation",
    "pair_polarisation_with_grad",
    "polarisation",
    "polarisation_grad",
    "redundancy_discount",
    "spectral_score",
    "split_polarisation",
    "split_polarisation_grad",
]


def polarisation(phi: Tensor, temperature: float) -> Tensor:
    """R(phi) = sum of t |phi| - |phi - mean(phi)|, Eq. (6.6); a scalar.

    Args:
        phi: [n], in (0, 1).
        temperature: t.
    """
    return temperature * phi.abs().sum() - (phi - phi.mean()).abs().sum()


def polarisation_grad(phi: Tensor, temperature: float) -> Tensor:
    """Derivative by phi of Eq. (6.6), [n], the mean's own included: t - sgn(phi - mean) + mean of the sgn.

    Args:
        phi: [n], in (0, 1).
        temperature: t.
    """
    side = torch.sign(phi - phi.mean())
    return temperature - side + side.mean()


def kept_share(temperature: float) -> float:
    """Share of ones at the minimum of Eq. (6.6): 1/2 - t/4, clipped to [0, 1].

    Eq. (6.7) prints this as the share of zeros; enumeration shows that it is the share kept.
    """
    return min(max(0.5 - temperature / 4, 0.0), 1.0)


def split_polarisation(phi: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """Eq. (6.6) with a given split in place of the mean: sum of t phi - phi (kept) + phi (not kept), a scalar.

    It is |phi - m| with the constants dropped, where m lies between the gates to keep and the others.

    Args:
        phi: [n], in (0, 1).
        keep: [n] bool.
        temperature: t, in (-1, 1).
    """
    return (phi * split_polarisation_grad(keep, temperature)).sum()


def split_polarisation_grad(keep: Tensor, temperature: float) -> Tensor:
    """Derivative by phi of `split_polarisation`, [n]: t - 1 where kept (pushed up), t + 1 elsewhere (pushed down).

    Args:
        keep: [n] bool.
        temperature: t, in (-1, 1).
    """
    return temperature + 1.0 - 2.0 * keep.to(torch.float32)


def pair_polarisation(phi: Tensor, pairs: Tensor, temperature: float) -> Tensor:
    """Average over redundant pairs of R({phi_j, phi_k}), Eqs. (6.6) and (6.11); a scalar, 0 without pairs.

    For two gates, R = t (a + b) - |a - b|: one of them is kept only for t in (-1, 1).

    Args:
        phi: [n], in (0, 1).
        pairs: [2, p] int64, positions in phi.
        temperature: t.
    """
    if pairs.shape[1] == 0:
        return phi.new_zeros(())
    first, second = phi.index_select(0, pairs[0]), phi.index_select(0, pairs[1])
    return (temperature * (first + second) - (first - second).abs()).mean()


def pair_polarisation_with_grad(phi: Tensor, pairs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`pair_polarisation` and its derivative by phi, [n], in closed form: a flat gather, a flat scatter, no graph.

    Args:
        phi: [n], in (0, 1).
        pairs: [2, p] int64, positions in phi.
        temperature: t.
    """
    grad = torch.zeros_like(phi)
    count = pairs.shape[1]
    if count == 0:
        return phi.new_zeros(()), grad
    flat = pairs.reshape(-1)
    gathered = phi.index_select(0, flat)
    difference = gathered[:count] - gathered[count:]
    value = (temperature * gathered.sum() - difference.abs().sum()) / count
    side = difference.sign_()
    grad.scatter_add_(0, flat, torch.cat([temperature - side, temperature + side]))
    return value, grad.div_(count)


def redundancy_discount(score: Tensor, pairs: Tensor, overlap: Tensor) -> Tensor:
    """Score of each gate, times the share of its dimension's variance that its stronger partner does not explain.

    That share is 1 - rho^2; with several stronger partners the smallest counts. The stronger one of a pair keeps its
    score (the lower position, if both are equal).

    Args:
        score: [n], >= 0.
        pairs: [2, p] int64.
        overlap: [p], |rho| in [0, 1].
    """
    first, second = pairs
    weaker = torch.where(score[first] < score[second], first, second)
    left = (1 - overlap.square()).to(score.dtype)
    return score * torch.ones_like(score).scatter_reduce_(0, weaker, left, "amin")


def spectral_score(importance: Sequence[Tensor], rank_by: Sequence[Tensor], spectra: Sequence[Tensor]) -> Tensor:
    """A table's importance, dealt out to its dimensions as variance is to its principal axes, [n].

    What the k-th dimension of a table adds falls as the table's spectrum does: the sum of ``importance`` times the
    k-th share. The dimension that stands first in ``rank_by`` gets the first share.

    Args:
        importance: per table [d], >= 0.
        rank_by: per table [d].
        spectra: per table [d], shares, largest first.
    """
    scores = []
    for parts, order, shares in zip(importance, rank_by, spectra, strict=True):
        score = torch.empty_like(parts)
        score[torch.argsort(order, descending=True, stable=True)] = parts.sum() * shares.to(parts)
        scores.append(score)
    return torch.cat(scores)


def mirror_step(logits: Tensor, slope: Tensor, rate: float, low: float, high: float) -> Tensor:
    """One step of mirror descent on phi, whose mirror map is its entropy: the logit moves by -rate x d/d phi.

    Unlike descent on the logit there is no factor phi (1 - phi), so a gate closes at constant speed.

    Args:
        logits: [n].
        slope: [n], d loss / d phi in units of the penalty's strength; clipped to [-1, 1].
        rate: the largest move.
        low: the logits stay at or above it.
        high: and at or below this.
    """
    return (logits - rate * slope.clamp(-1, 1)).clamp(low, high)


class _GivenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return scale * gradient, None, None


def given_gradient(leaf: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """``value``, whose derivative with respect to ``leaf`` is ``gradient``: a closed form in place of a graph.

    Args:
        leaf: [n], requires grad.
        value: a scalar.
        gradient: [n].
    """
    return _GivenGradient.apply(leaf, value, gradient)  # type: ignore[no-any-return]
