"""The smallest sampler and penalty that keep the contracts: worked examples, and probes of the seams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from tamis.core.rng import numpy_generator
from tamis.pruners.base import Regularizer
from tamis.samplers.base import StatefulSampler

__all__ = ["IndexedDataset", "ScaleL1", "ShuffleSampler", "ToyModel", "make_scale_l1", "make_shuffle_sampler"]


class ShuffleSampler(StatefulSampler):
    """A uniform shuffle of ``data_size`` items: an order that is a pure function of (seed, epoch).

    Args:
        data_size: number of items, >= 1.
        seed: of the order.
    """

    def __init__(self, data_size: int, *, seed: int = 0) -> None:
        super().__init__(data_size, seed=seed)
        self.data_size: int = data_size

    def indices(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        """One chunk: the whole permutation.

        Args:
            epoch: >= 0.
            start: how many indices to leave out, >= 0.
        """
        yield numpy_generator(self.seed, epoch).permutation(self.data_size)[start:]


def make_shuffle_sampler(seed: int = 3) -> ShuffleSampler:
    """A `ShuffleSampler` over 24 items, importable by name for torchrun's processes."""
    return ShuffleSampler(24, seed=seed)


class ScaleL1(Regularizer):
    """lam x the L1 norm of one parameter.

    Args:
        scale: the parameter.
        lam: >= 0.
    """

    def __init__(self, scale: nn.Parameter, lam: float = 0.1) -> None:
        self.scale, self.lam = scale, lam

    def parameters(self) -> Sequence[torch.Tensor]:
        return [self.scale]

    def penalty(self) -> torch.Tensor:
        return self.lam * self.scale.abs().sum()


def make_scale_l1(use_num_items: bool = False) -> tuple[nn.Module, Regularizer, IndexedDataset]:
    """A `ToyModel` of 4 features, an L1 penalty on its scale, and 24 rows."""
    model = ToyModel(use_num_items)
    return model, ScaleL1(model.scale), IndexedDataset(24)


class IndexedDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """``size`` rows whose features and label are a fixed function of the index; the index comes along."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x = torch.tensor([np.sin(index + k) for k in range(4)], dtype=torch.float32)
        return {"index": torch.tensor(index), "x": x, "labels": x.sum() + 0.1 * (index % 3)}


class ToyModel(nn.Module):
    """Linear regression with a per-feature scale; remembers the indices that it was trained on.

    Args:
        use_num_items: divide the summed loss by ``num_items_in_batch``, as HF's models do; else the batch mean.
    """

    def __init__(self, use_num_items: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.linear = nn.Linear(4, 1)
        with torch.no_grad():
            self.linear.weight.copy_(torch.linspace(-0.5, 0.5, 4)[None])
            self.linear.bias.zero_()
        self.seen: list[list[int]] = []
        if use_num_items:
            self.accepts_loss_kwargs = True
        self.use_num_items = use_num_items

    def forward(
        self,
        x: torch.Tensor,
        index: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Predict, and with labels the squared error.

        Args:
            x: float [B, 4].
            index: int64 [B], only recorded.
            labels: float [B].
            num_items_in_batch: what the summed loss is divided by, as HF's Trainer passes it.

        Returns:
            ``{"loss", "logits" [B]}``, without labels the logits alone.
        """
        logits = self.linear(x * self.scale).squeeze(-1)
        if index is not None and self.training:
            self.seen.append(index.tolist())
        if labels is None:
            return {"logits": logits}
        squared = (logits - labels) ** 2
        items = num_items_in_batch if self.use_num_items and num_items_in_batch is not None else len(labels)
        return {"loss": squared.sum() / items, "logits": logits}
