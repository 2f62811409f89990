"""While a model is cut, the extra memory is at most one table: tables and optimizer state go one tensor at a time."""

import pytest
import torch
from torch import nn

from benchmarks.peak_memory import PeakMemory
from tamis.pruners import cut
from tamis.pruners.stats import CHUNK_ROWS, correlation, weighted_moments

ROWS, DIM = 2000, 16
TABLE = ROWS * DIM * 4


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


@pytest.mark.parametrize("weighted", [False, True])
def test_the_correlations_need_one_chunk_beside_the_table(weighted):
    table = torch.randn(50 * CHUNK_ROWS, DIM, generator=torch.Generator().manual_seed(0)) + 3
    counts = torch.ones(len(table), dtype=torch.int32) if weighted else None
    memory = PeakMemory([table] if counts is None else [table, counts])
    with memory:
        correlation(weighted_moments(table, counts)[1])
    chunk, products = CHUNK_ROWS * DIM * 4, 8 * DIM * DIM * 8
    sample = 2 * 4096 * DIM * 8  # of the rough mean
    assert memory.extra <= max(chunk + CHUNK_ROWS * 16, sample) + products
