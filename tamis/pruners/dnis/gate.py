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
        gain: [L, K], running mean of (value x slope of the validation loss)^2, summed over a batch's lookups (over
            its distinct rows, slopes summed, in an EmbeddingBag).
        block: [n] uint8 or int32.
        kept: bool [L, K], what was decided to remain of each block; or, for single values, bool [n, K].
        active: False as long as alpha is all ones: nothing is multiplied then.
        learning: True while a loss is differentiated by alpha.
        catching: True while the forward of the validation loss runs, whose contributions are noted.
    """

    per_row = True
    alpha: Tensor
    control: Tensor
    gain: Tensor
    block: Tensor
    kept: Tensor

    def __init__(self, rows: int, width: int, blocks: int, *, values: bool = False) -> None:
        super().__init__()
        self.leaf("alpha", torch.ones(blocks, width))
        self.float32("control", torch.ones(blocks, width))
        self.float32("gain", torch.zeros(blocks, width))
        self.caught = torch.zeros(blocks, width)  # of the batch under way, on this rank
        self.register_buffer("block", torch.zeros(rows, dtype=torch.uint8 if blocks <= 2**8 else torch.int32))
        self.values = values
        self.register_buffer("kept", torch.ones(rows if values else blocks, width, dtype=torch.bool))
        self.active = self.learning = self.catching = False

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        if not self.active:
            return rows
        block = self.block[ids].long()
        alpha = self.alpha if self.learning else self.alpha.detach()
        factor = (alpha if self.values else alpha * self.kept)[block].to(rows.dtype)
        gated = rows * (factor * self.kept[ids] if self.values else factor)
        if self.catching:
            self.catch(gated, block)
        return gated

    def take_caught(self) -> Tensor:
        """What was noted since the last call, [L, K]."""
        caught, self.caught = self.caught, torch.zeros_like(self.gain)
        return caught.to(self.gain.device)

    def catch(self, gated: Tensor, block: Tensor) -> None:
        """Note (value x slope)^2 of these rows per block and column when the loss is differentiated.

        Args:
            gated: [..., K], what `forward` returns.
            block: [...], the rows' blocks.
        """
        value, flat = gated.detach().float().reshape(-1, gated.shape[-1]), block.reshape(-1)

        def note(slope: Tensor) -> None:
            self.caught = self.caught.to(flat.device)
            self.caught.index_add_(0, flat, (value * slope.float().reshape(value.shape)).square())

        gated.register_hook(note)  # type: ignore[no-untyped-call]

    def fold(self, weight: Tensor) -> None:
        if self.active:
            weight.copy_(self.merged(weight).mul_(self.kept if self.values else self.kept[self.block.long()]))

    def merged(self, weight: Tensor) -> Tensor:
        """E~: the table [n, K] times alpha, a new tensor."""
        return weight.detach() * self.alpha.detach()[self.block.long()].to(weight.dtype)
