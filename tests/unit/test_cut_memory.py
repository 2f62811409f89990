"""While a model is cut, the extra memory is at most one table: tables and optimizer state go one tensor at a time."""

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tamis.pruners import cut

ROWS, DIM = 2000, 16
TABLE = ROWS * DIM * 4


class PeakMemory(TorchDispatchMode):
    """Peak bytes of all tensor storages: those given at the start, and every one an operation makes until it dies."""

    def __init__(self, tensors):
        super().__init__()
        self.alive = {}
        for tensor in tensors:
            self.note(tensor)
        self.start = self.peak = self.total()

    def note(self, tensor):
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        self.alive[reference.cdata] = (reference, storage.nbytes())

    def total(self):
        self.alive = {key: item for key, item in self.alive.items() if not item[0].expired()}
        return sum(size for _, size in self.alive.values())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor)
        self.peak = max(self.peak, self.total())
        return output

    @property
    def extra(self):
        return self.peak - self.start


def trained_model():
    """Six tables of one size with Adam's two moments each: 18 tensors of ``TABLE`` bytes and little else."""
    model = nn.ModuleDict({f"t{i}": nn.Embedding(ROWS, DIM) for i in range(6)})
    optimizer = torch.optim.Adam(model.parameters())
    sum(table(torch.arange(8)).sum() for table in model.values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def everything(model, optimizer):
    return [*model.parameters(), *(v for state in optimizer.state.values() for v in state.values())]


@pytest.mark.parametrize("share", [0.125, 0.5, 0.9375])
def test_the_peak_is_at_most_one_table_above_the_start(share):
    model, optimizer = trained_model()
    kept = torch.arange(int(DIM * share))
    memory = PeakMemory(everything(model, optimizer))
    assert memory.start >= 18 * TABLE
    with memory:
        cut(model, dict.fromkeys(model, kept), optimizer=optimizer)
    assert memory.extra <= TABLE
    assert memory.total() <= 18 * TABLE * share + 4096  # and the wide tensors are gone


def test_the_measure_notices_a_cut_that_copies_the_tables_first():
    model, optimizer = trained_model()
    memory = PeakMemory(everything(model, optimizer))
    with memory:
        copies = [table.weight.detach().clone() for table in model.values()]
        cut(model, dict.fromkeys(model, torch.arange(2)), optimizer=optimizer)
    assert len(copies) == 6
    assert memory.extra >= 6 * TABLE
