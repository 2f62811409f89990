"""Gates on embedding tables: every looked-up row goes through the table's gate while the model trains.

A gated module is the module that was there, with its class changed in place to a subclass: the weight, its name in
the state dict, hooks, tied weights, ``padding_idx`` and sparse gradients stay what they were. The table itself is
never touched, only the rows that a batch looks up. What a gate learns are *leaves*: buffers that require grad, saved
and moved with the model, always float32, never seen by the user's optimizer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tamis.pruners.lookups import Lookups
from tamis.pruners.tables import Table

__all__ = ["ColumnGate", "Gate", "GatedEmbedding", "GatedEmbeddingBag", "gate_of", "install", "pool", "remove"]


class Gate(nn.Module, ABC):
    """What a pruner puts on one table [n, d]. Subclasses register their `leaf` tensors and say what they do to rows.

    Attributes:
        per_row: True if the factor depends on the row: a bag then applies it before it pools. A gate that scales
            every row alike, by positive factors, may scale the pooled rows.
    """

    per_row: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._leaves: list[str] = []
        self._float32: list[str] = []  # leaves and other buffers that stay float32 whatever the model is moved to

    def leaf(self, name: str, value: Tensor) -> None:
        """Register a tensor that the pruner learns: float32, requires grad, saved with the model.

        Args:
            name: of the attribute, and in the state dict.
            value: its start, any shape.
        """
        self.register_buffer(name, value.detach().clone().float().requires_grad_())
        self._leaves.append(name)
        self._float32.append(name)

    def float32(self, name: str, value: Tensor) -> None:
        """Register a buffer that is not learned but stays float32 too.

        Args:
            name: of the attribute, and in the state dict.
            value: its start, any shape.
        """
        self.register_buffer(name, value.detach().clone().float())
        self._float32.append(name)

    def leaves(self) -> list[Tensor]:
        """The leaves in the order in which they were registered."""
        return [getattr(self, name) for name in self._leaves]

    @abstractmethod
    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Gate looked-up rows.

        Args:
            rows: [..., d], fresh: it may be changed in place.
            ids: [...] int64, their numbers. A bag gives pooled rows to a gate that is not ``per_row``: the shapes
                then differ, and ``ids`` must not be used.

        Returns:
            [..., d]
        """

    @abstractmethod
    def fold(self, weight: Tensor) -> None:
        """Merge the gate into the table's ``weight`` [n, d], in place: what stays needs no gate afterwards."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        kept, order = {name: getattr(self, name) for name in self._float32}, list(self._buffers)
        for name in kept:
            del self._buffers[name]  # a leaf stays the tensor it is, in float32, whatever dtype the model is moved to
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in kept.items():
            tensor.data = tensor.data.to(fn(tensor.data).device)
            self.register_buffer(name, tensor)
        for name in order:  # as it was, so that the state dict's order does not depend on moves
            self._buffers[name] = self._buffers.pop(name)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for name in self._leaves:
            tensor = getattr(self, name)
            if not tensor.requires_grad:  # load_state_dict(assign=True) puts the file's tensor in its place
                setattr(self, name, tensor.detach().float().requires_grad_())


class ColumnGate(Gate):
    """One factor phi = sigmoid(logit) in (0, 1) per column, the same for every row.

    Args:
        logits: [d].

    Attributes:
        learning: whether the logits get gradients; a pruner that has decided turns it off, which saves their cost.
    """

    per_row = False
    logits: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.leaf("logits", logits)
        self.learning = True

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        if not self.learning:
            return rows.mul_(torch.sigmoid(self.logits.detach()).to(rows.dtype))
        return _Scale.apply(rows, self.logits)  # type: ignore[no-any-return]

    def fold(self, weight: Tensor) -> None:
        weight.mul_(torch.sigmoid(self.logits.detach()).to(weight))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.learning = True  # other logits than those that the pruner had decided on


class _Scale(torch.autograd.Function):
    """rows * sigmoid(gate) of DimReg, Eq. (6.4), in place: rows [..., d] of any float dtype; gate [d] float32.

    In place, because on a CPU a second copy of the rows costs more than all the rest. The gate's gradient needs the
    product only: d/d alpha = (1 - phi) x sum of grad x (phi V).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gate: Tensor) -> Tensor:
        phi = torch.sigmoid(gate)
        rows.mul_(phi.to(rows.dtype))
        ctx.mark_dirty(rows)
        ctx.save_for_backward(rows, phi, torch.sigmoid(-gate))
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        try:
            product, phi, rest = ctx.saved_tensors
        except RuntimeError as error:
            raise RuntimeError(
                "the rows that a gated embedding returned were changed in place before backward; "
                "write x = x + y in place of x += y on an embedding's output"
            ) from error
        grad_rows = grad_gate = None
        if ctx.needs_input_grad[1]:
            wide = torch.promote_types(grad.dtype, torch.float32)  # a product of two halves underflows to 0
            each = (grad.to(wide) * product.to(wide)).reshape(-1, len(phi))
            grad_gate = each.sum(0, dtype=torch.float32) * rest
        if ctx.needs_input_grad[0]:
            grad_rows = grad * phi.to(grad.dtype)
        return grad_rows, grad_gate


class _Gated(nn.Module):
    """What the two gated modules share.

    Attributes:
        gate: the table's; modules that share a table share it, and the first of them saves it.
        counts: [rows] int32: how often each row was looked up on counted steps, by all ranks together; it stops at
            the largest int32.
        fresh: the lookups of this rank in the step under way; no buffer, since ranks differ in it.
        counting: whether this step is counted.
    """

    gate: Gate
    counts: Tensor
    fresh: Lookups
    counting: bool

    def _count(self, ids: Tensor) -> None:
        if self.counting and self.training:
            self.fresh.add(ids)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        old = state_dict.pop(f"{prefix}gate", None)  # release 0.1 kept the logits of DimReg there, in each module
        if old is not None and "gate" in self._modules:
            state_dict.setdefault(f"{prefix}gate.logits", old)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class GatedEmbedding(_Gated, nn.Embedding):
    """`nn.Embedding` whose looked-up rows go through ``gate``; made by `install`."""

    def forward(self, input: Tensor) -> Tensor:
        rows = nn.Embedding.forward(self, input)
        self._count(input)
        return self.gate(rows, input)  # type: ignore[no-any-return]


class GatedEmbeddingBag(_Gated, nn.EmbeddingBag):
    """`nn.EmbeddingBag` whose rows go through ``gate``, before pooling if it is ``per_row``, else after."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        self._count(input)
        if not self.gate.per_row:
            pooled = nn.EmbeddingBag.forward(self, input, offsets, per_sample_weights)
            return self.gate(pooled, input)  # type: ignore[no-any-return]

        def look_up(ids: Tensor) -> Tensor:
            rows = F.embedding(ids, self.weight, padding_idx=self.padding_idx, sparse=self.sparse)
            return self.gate(rows, ids)  # type: ignore[no-any-return]

        return pool(self, look_up, input, offsets, per_sample_weights)


def pool(
    bag: nn.EmbeddingBag,
    look_up: Callable[[Tensor], Tensor],
    input: Tensor,
    offsets: Tensor | None,
    per_sample_weights: Tensor | None,
) -> Tensor:
    """What ``bag`` would return if its table held the rows that ``look_up`` gives.

    Each distinct id is looked up once, so that whatever is done to rows is done before they are pooled.

    Args:
        bag: whose mode, padding and options count.
        look_up: ids [u], distinct -> rows [u, d].
        input: [B, N], or [N] with ``offsets``, as `nn.EmbeddingBag` takes it.
        offsets: [B], or None.
        per_sample_weights: of the shape of ``input``, or None.

    Returns:
        [B, d]
    """
    distinct, places = torch.unique(input, return_inverse=True)
    padding = None
    if bag.padding_idx is not None:
        found = (distinct == bag.padding_idx).nonzero()
        padding = int(found[0, 0]) if len(found) else None
    return F.embedding_bag(
        places,
        look_up(distinct),
        offsets,
        scale_grad_by_freq=bag.scale_grad_by_freq,
        mode=bag.mode,
        per_sample_weights=per_sample_weights,
        include_last_offset=bag.include_last_offset,
        padding_idx=padding,
    )


_GATED: dict[type[nn.Module], type[_Gated]] = {nn.Embedding: GatedEmbedding, nn.EmbeddingBag: GatedEmbeddingBag}


def install(table: Table, gate: Gate) -> None:
    """Gate ``table`` in place.

    Args:
        table: of plain modules.
        gate: moved to the table's device; all modules of the table share it.
    """
    gate.to(table.weight.device)
    for number, module in enumerate(table.modules):
        device = module.weight.device
        module.__class__ = _GATED[type(module)]
        module.register_buffer("counts", torch.zeros(table.rows, dtype=torch.int32, device=device))
        if number == 0:
            module.gate = gate
        else:
            module.__dict__["gate"] = gate  # no submodule: it is saved once, by the first
        module.fresh = Lookups()
        module.counting = False


def gate_of(table: Table) -> Gate:
    """The gate of a gated table."""
    return table.modules[0].gate  # type: ignore[no-any-return]


def remove(table: Table) -> None:
    """Undo `install`: the plain modules again, ungated."""
    for module in table.modules:
        module.__class__ = nn.Embedding if isinstance(module, GatedEmbedding) else nn.EmbeddingBag
        del module.gate, module.counts, module.fresh, module.counting
