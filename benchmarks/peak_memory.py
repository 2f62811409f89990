"""Peak memory of tensors on the CPU, counted exactly, by watching every operation's outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["PeakMemory"]


class PeakMemory(TorchDispatchMode):
    """Peak bytes of all tensor storages: those given at the start, and every one an operation makes until it dies."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        for tensor in tensors:
            self.note(tensor)
        self.start = self.peak = self.total()

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        self.alive[reference.cdata] = (reference, storage.nbytes())

    def total(self) -> int:
        self.alive = {key: item for key, item in self.alive.items() if not item[0].expired()}
        return sum(size for _, size in self.alive.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self.note(tensor)
        self.peak = max(self.peak, self.total())
        return output

    @property
    def extra(self) -> int:
        return self.peak - self.start
