"""The soft selection layer of DNIS as a gate: a factor per block of rows and column."""

from __future__ import annotations

import torch
from torch import Tensor

from tamis.pruners.gates import Gate

__all__ = ["BlockGate"]


class BlockGate(Gate):
    """Multiplies each looked-up row by the alpha of its block, Eq. (4), and by what was decided.

    Args:
        rows: n.
        width: K.
        blocks: L.
        values: what remains is decided value by value (unstructured).

    Attributes:
        alpha: [L, K] in [0, 1].
        control: [L, K], alpha under random signs; never used in the model.
        block: [n] uint8 or int32.
        kept: bool [L, K], what was decided to remain of each block; or, for single values, bool [n, K].
        active: False as long as alpha is all ones: nothing is multiplied then.
        learning: True while the validation loss is differentiated by alpha.
    """

    per_row = True
    alpha: Tensor
    control: Tensor
    block: Tensor
    kept: Tensor

    def __init__(self, rows: int, width: int, blocks: int, *, values: bool = False) -> None:
        super().__init__()
        self.leaf("alpha", torch.ones(blocks, width))
        self.register_buffer("control", torch.ones(blocks, width))
        self.register_buffer("block", torch.zeros(rows, dtype=torch.uint8 if blocks <= 2**8 else torch.int32))
        self.values = values
        self.register_buffer("kept", torch.ones(rows if values else blocks, width, dtype=torch.bool))
        self.active = self.learning = False

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        if not self.active:
            return rows
        alpha = self.alpha if self.learning else self.alpha.detach()
        if not self.values:
            return rows * (alpha * self.kept)[self.block[ids].long()].to(rows.dtype)
        return rows * alpha[self.block[ids].long()].to(rows.dtype) * self.kept[ids]

    def fold(self, weight: Tensor) -> None:
        if self.active:
            weight.copy_(self.merged(weight).mul_(self.kept if self.values else self.kept[self.block.long()]))

    def merged(self, weight: Tensor) -> Tensor:
        """E~: the table [n, K] times alpha, a new tensor."""
        return weight.detach() * self.alpha.detach()[self.block.long()].to(weight.dtype)
