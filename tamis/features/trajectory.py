"""What the model said of each sample while it was trained: mean loss and area under the margin, at no extra pass.

============== ==================================================================================================
column         meaning
============== ==================================================================================================
``mean_loss``  mean of the sample's losses over the batches that it was in; high for wrong and for hard samples
``margin``     mean of (logit of the label - largest other logit): Pleiss et al., 2020, "Identifying mislabeled
               data using the area under the margin ranking", arXiv:2001.10528; low for wrong samples
============== ==================================================================================================

A wrong label is learned late, so that it shows in the mean over epochs when the last epoch has already hidden it.

::

    trajectory = LossTrajectory(len(train))
    attach(trainer, trajectory)                              # a Hugging Face Trainer: nothing else to do
    trajectory.update(indices, logits, labels)               # in a loop of your own, after each forward pass
    features = features.with_columns(trajectory.columns())   # for `search_swift`, `consensus_loss`, `TrimSampler`
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tamis.core.checks import check_int
from tamis.core.distributed import gather_objects, is_distributed
from tamis.core.types import ArrayLike

__all__ = ["LossTrajectory"]


class LossTrajectory:
    """Sums of loss and margin of each sample over a training.

    Args:
        size: samples of the data set, >= 1.
    """

    def __init__(self, size: int) -> None:
        self.size = check_int("size", size, low=1)
        self._known = torch.zeros(3, size, dtype=torch.float64)  # looks, losses, margins of all ranks
        self._own = torch.zeros(3, size, dtype=torch.float64)  # of this rank since `sync`

    def __repr__(self) -> str:
        return f"LossTrajectory({self.size}, {int((self._known + self._own)[0].sum())} losses seen)"

    def reset(self) -> None:
        """Forget all that was seen. `attach` does at the begin of each training that is no resume."""
        self._known, self._own = torch.zeros_like(self._known), torch.zeros_like(self._own)

    def update(self, indices: ArrayLike, logits: Tensor, labels: Tensor) -> None:
        """Note a batch; call it after the forward pass, with what the loss was computed from.

        Args:
            indices: of the batch's samples in the data set, int [B].
            logits: float [B, C], C >= 2.
            labels: int [B] in [0, C).

        Raises:
            ValueError: shapes that do not fit, an index or label out of range.
        """
        at = torch.as_tensor(indices).detach().cpu().long()
        if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != (len(logits),) or at.shape != (len(logits),):
            raise ValueError(
                f"logits {list(logits.shape)}, labels {list(labels.shape)}, indices {list(at.shape)}: must be [B, C], "
                "[B] and [B] of one batch of a classifier"
            )
        if len(at) and (int(at.min()) < 0 or int(at.max()) >= self.size):
            raise ValueError(f"indices: must lie in [0, {self.size}), got {int(at.min())} to {int(at.max())}")
        if len(at) and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]):
            raise ValueError(f"labels: must lie in [0, {logits.shape[1]}), the model's classes")
        z = logits.detach().double()
        own = z.gather(1, labels[:, None].long()).squeeze(1)
        losses = z.logsumexp(1) - own
        others = z.scatter(1, labels[:, None].long(), -torch.inf).amax(1)
        rows = torch.stack([torch.ones_like(own), losses, own - others]).cpu()
        self._own.index_add_(1, at, rows)

    def sync(self) -> None:
        """Add up what the ranks saw; every rank must call it. `attach` and `columns` do."""
        self._known += torch.stack(gather_objects(self._own)).sum(0) if is_distributed() else self._own
        self._own = torch.zeros_like(self._own)

    def columns(self) -> dict[str, Tensor]:
        """``mean_loss`` and ``margin`` of every sample, float64 [n]; on several processes every rank must call it.

        Raises:
            ValueError: a sample was in no batch, or a loss was not finite (the message names it).
        """
        self.sync()
        looks, losses, margins = self._known
        unseen = torch.nonzero(looks == 0)
        if len(unseen):
            raise ValueError(
                f"{len(unseen)} of {self.size} samples were in no batch, the first is {int(unseen[0])}: train at least "
                "one epoch with every sample in it (a uniform order, and drop_last=False)"
            )
        bad = torch.nonzero(~torch.isfinite(losses + margins))
        if len(bad):
            raise ValueError(f"mean_loss[{int(bad[0])}]={float(losses[bad[0, 0]])}: must be finite; did training fail?")
        return {"mean_loss": losses / looks, "margin": margins / looks}

    def state_dict(self) -> dict[str, Any]:
        """The sums so far. On several processes call `sync` before, on all of them."""
        return {"size": self.size, "sums": self._known + self._own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Args:
            state: what `state_dict` gave.

        Raises:
            ValueError: the state is of another data set's size.
        """
        if state["size"] != self.size:
            raise ValueError(f"size={self.size}, but the saved trajectory is of {state['size']} samples")
        self._known = state["sums"].detach().clone().double()
        self._own = torch.zeros_like(self._known)
