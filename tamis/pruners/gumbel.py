"""Gumbel-softmax as a gate: a relaxed choice among a few candidates, with noise that is a function of the step."""

from __future__ import annotations

import torch
from torch import Tensor

from tamis.core.rng import torch_generator
from tamis.pruners.factors import FactorGate

__all__ = ["GumbelGate", "gumbel", "gumbel_softmax", "temperature"]


def temperature(step: int, cooling: float) -> float:
    """Tau = max(0.01, 1 - cooling x step).

    Args:
        step: >= 0.
        cooling: >= 0.
    """
    return max(0.01, 1 - cooling * step)


def gumbel_softmax(logits: Tensor, noise: Tensor, tau: float) -> Tensor:
    """Softmax((log softmax(logits) + noise) / tau), [a]: positive, sums to 1.

    Args:
        logits: [a].
        noise: [a], standard Gumbel, or 0.
        tau: > 0.
    """
    return torch.softmax((torch.log_softmax(logits, 0) + noise) / tau, 0)


def gumbel(count: int, *key: int) -> Tensor:
    """Standard Gumbel noise [count] of the stream ``key``."""
    uniform = torch.rand(count, generator=torch_generator(*key), dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return -torch.log(-torch.log(uniform)).float()


class GumbelGate(FactorGate):
    """A relaxed choice among candidates; noise only while the model trains, or the choice learns.

    Attributes:
        noise: [a], of this step.
        tau: the temperature.
    """

    noise: Tensor
    tau: Tensor

    def __init__(self, width: int, candidates: int) -> None:
        super().__init__(width, torch.zeros(candidates))
        self.float32("noise", torch.zeros(candidates))
        self.float32("tau", torch.ones(()))

    def probabilities(self, value: Tensor) -> Tensor:
        """[a]."""
        noisy = self.training or self.learning
        return gumbel_softmax(value, self.noise * noisy, float(self.tau))

    def set_noise(self, tau: float, *key: int) -> None:
        """Draw the noise of a step."""
        self.noise.copy_(gumbel(len(self.noise), *key))
        self.tau.fill_(tau)
