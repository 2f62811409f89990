"""Gumbel-softmax as a gate: a relaxed choice among a few candidates, with noise that is a function of the step."""

from __future__ import annotations

import torch
from torch import Tensor

from tamis.core.rng import torch_generator
from tamis.pruners.base import Loss, Step
from tamis.pruners.factors import FactorGate, FactorPruner, adam

__all__ = ["GumbelGate", "GumbelPruner", "gumbel", "gumbel_softmax", "temperature"]


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


class GumbelPruner(FactorPruner):
    """A pruner whose gates are `GumbelGate`: noise that cools with the steps, logits that descend the validation loss.

    Its settings have ``lr``, ``cooling``, ``warm_up`` and ``seed``.
    """

    validates = 1
    again = "fresh"

    def wake(self) -> None:
        """The noise and the temperature of the next step; none once it is decided."""
        super().wake()
        for place, gate in enumerate(self.factor_gates()):
            assert isinstance(gate, GumbelGate)
            if self._decided:
                gate.noise.zero_()
            else:
                number = self.steps_taken
                gate.set_noise(temperature(number, self.config.cooling), self.config.seed, number, place)

    def on_validation(self, loss: Loss, step: Step) -> None:
        """A step of Adam on the logits."""
        if self._decided or step.number < self.config.warm_up * step.steps_in_all:
            return
        grads = self.validation_gradients(loss, step)
        self._moved += 1
        adam(self.factor_gates(), grads, self._moved, self.config.lr)
