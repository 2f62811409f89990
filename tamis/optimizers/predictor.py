"""A neural predictor of rewards: what a multiset of items is worth to a group, from few trials of each group.

"LA3: Efficient Label-Aware AutoAugment", sections 4.3.3 and 4.4.2 of chapter 4 of M. Zhao's thesis. What is new there:
one small network for all labels, so that labels learn from one another's trials.

======== ==================== ==============================================================================
symbol   here                 meaning
======== ==================== ==============================================================================
tau      ``sets`` [R]         row of ``counts`` [M, items]: how often each item is in the multiset
y        ``groups`` [R]       the label
r        ``rewards`` [R]      what a trial gave
f        `Predictor`          embeddings of 100, three hidden layers of 100, ReLU; Adam at 0.01, 100 epochs
======== ==================== ==============================================================================

**Deviations**: an ensemble of 5, absolute error and batches of 10,000 as in the authors' code (the text has one network
and does not name the loss), and a silent item (Identity) whose embedding is zero, also from the code. Rewards are
centred at their median and scaled by their mean deviation, so that the learning rate suits accuracies and losses
alike. The first layer is applied to the M multisets and the G groups, not to the R rows, which is the same sum. The
cost of one fit is bounded by ``max_rows``: with many trials, there are fewer epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_int, check_range
from tamis.core.rng import torch_generator

__all__ = ["Predictor", "PredictorConfig"]


@dataclass(frozen=True)
class PredictorConfig:
    """Hyper-parameters of the predictor.

    Attributes:
        ensemble: networks whose mean is the prediction.
        width: of embeddings and hidden layers.
        epochs: passes over the trials.
        batch: rows a step.
        rate: Adam's learning rate.
        max_rows: most rows a fit goes through (at least one pass is made).
    """

    ensemble: int = 5
    width: int = 100
    epochs: int = 100
    batch: int = 10_000
    rate: float = 0.01
    max_rows: int = 200_000

    def __post_init__(self) -> None:
        for name in ("ensemble", "width", "epochs", "batch", "max_rows"):
            check_int(name, getattr(self, name), low=1)
        check_range("rate", self.rate, low=0, open_low=True)


class Predictor:
    """An ensemble fitted from scratch.

    Args:
        counts: [M, items], how often each item is in each multiset.
        groups: number of groups G.
        config: see `PredictorConfig`.
        seed: of weights and of the order of rows.
        silent: an item that adds nothing.
    """

    def __init__(
        self,
        counts: Tensor,
        groups: int,
        config: PredictorConfig | None = None,
        *,
        seed: int = 0,
        silent: int | None = None,
    ) -> None:
        self.config = config or PredictorConfig()
        self.features = counts.to(torch.float32) / counts.sum(1, keepdim=True)  # mean pooling
        if silent is not None:
            self.features[:, silent] = 0
        self.groups, self.seed = groups, seed
        self.centre, self.scale = 0.0, 1.0
        self.weights = self._initial(torch_generator(seed, 0))

    def _initial(self, generator: torch.Generator) -> list[Tensor]:
        """Embeddings of items and groups; for each layer weight and bias, as `torch.nn` starts them."""
        ensemble, width = self.config.ensemble, self.config.width

        def uniform(bound: float, *shape: int) -> Tensor:
            return (torch.rand(ensemble, *shape, generator=generator) * 2 - 1) * bound

        items = torch.randn(ensemble, self.features.shape[1], width, generator=generator)
        groups = torch.randn(ensemble, self.groups, width, generator=generator)
        layers = []
        for inputs, outputs in ((2 * width, width), (width, width), (width, width), (width, 1)):
            bound = inputs**-0.5
            layers += [uniform(bound, inputs, outputs), uniform(bound, 1, outputs)]
        return [items, groups, *layers]

    def fit(self, sets: Tensor, groups: Tensor, rewards: Tensor) -> Predictor:
        """Train on R trials, in place.

        Args:
            sets: int64 [R], rows of ``counts``.
            groups: int64 [R] in 0..G-1.
            rewards: [R], finite.
        """
        if len(rewards) == 0 or not bool(torch.isfinite(rewards).all()):
            raise ValueError(f"rewards: must be finite and at least one, got {len(rewards)}")
        rewards = rewards.to(torch.float32)
        self.centre = float(rewards.median())
        self.scale = float((rewards - self.centre).abs().mean()) or 1.0
        target = (rewards - self.centre) / self.scale
        parameters = [weight.requires_grad_() for weight in self.weights]
        optimizer = torch.optim.Adam(parameters, lr=self.config.rate)
        epochs = max(1, min(self.config.epochs, self.config.max_rows // len(target)))
        for epoch in range(epochs):
            order = torch.randperm(len(target), generator=torch_generator(self.seed, 1, epoch))
            for rows in torch.split(order, self.config.batch):
                optimizer.zero_grad()
                found = self._forward(sets[rows], groups[rows])
                (found - target[rows]).abs().mean(1).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.weights = [weight.detach() for weight in parameters]
        return self

    def predict(self) -> Tensor:
        """The mean prediction for every group and multiset: float32 [G, M]."""
        rows, every = [], torch.arange(len(self.features))
        with torch.no_grad():
            for group in range(self.groups):
                found = self._forward(every, torch.full_like(every, group))
                rows.append(found.mean(0))
        return torch.stack(rows) * self.scale + self.centre

    def _forward(self, sets: Tensor, groups: Tensor) -> Tensor:
        """Predictions of each network: [ensemble, rows]."""
        items, labels, first, bias, *others = self.weights
        width = self.config.width
        of_sets = (self.features @ items) @ first[:, :width]  # [E, M, width]
        of_groups = labels @ first[:, width:] + bias
        hidden = torch.relu(of_sets[:, sets] + of_groups[:, groups])
        for at in range(0, len(others), 2):
            hidden = hidden @ others[at] + others[at + 1]
            if at + 2 < len(others):
                hidden = torch.relu(hidden)
        return hidden.squeeze(-1)
