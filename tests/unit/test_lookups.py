"""Lookups: counted on the rows that were looked up, and rows drawn by how often they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tamis.pruners import ColumnGate
from tamis.pruners.dimreg.rules import LOOK_ROWS
from tamis.pruners.gates import install
from tamis.pruners.lookups import Lookups, add_counts_, draw_rows
from tamis.pruners.stats import weighted_moments
from tamis.pruners.tables import Table
from tamis.testing import run_distributed

CPU = torch.device("cpu")


@pytest.mark.parametrize("calls", [1, Lookups.LOOSE, 3 * Lookups.LOOSE + 1])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_every_lookup_counts_however_many_calls_there_were(calls: int, dtype: torch.dtype) -> None:
    lookups, generator = Lookups(), torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (calls, 3, 5), generator=generator).to(dtype)
    for part in ids:
        lookups.add(part)
    counts = torch.ones(20, dtype=torch.int32)
    add_counts_(counts, lookups)
    assert counts.tolist() == (torch.bincount(ids.reshape(-1).long(), minlength=20) + 1).tolist()
    add_counts_(counts, lookups)  # nothing is left
    assert int(counts.sum()) == 20 + ids.numel()


def test_ids_that_the_caller_changes_afterwards_were_noted_before() -> None:
    lookups, ids = Lookups(), torch.tensor([1, 2])
    lookups.add(ids)
    ids.fill_(0)
    assert lookups.take(CPU)[0].tolist() == [1, 2]


def count_by_rank() -> list[int]:
    """Each rank looks up another number of ids; one of them none at all in the second round."""
    module = nn.Embedding(6, 4)
    table = Table("t", ["0"], [module])
    install(table, ColumnGate(torch.zeros(4)))
    module.counting = True
    rank = torch.distributed.get_rank()
    module(torch.tensor([[0, 1, 1], [5]][rank]))
    table.merge_lookups()
    if rank == 1:
        module(torch.tensor([1, 5]))
    table.merge_lookups()
    return module.counts.tolist()


def test_the_ranks_count_together() -> None:
    first, second = run_distributed("tests.unit.test_lookups:count_by_rank")
    assert first == second == [1, 3, 0, 0, 0, 2]


def test_rows_are_drawn_in_proportion_to_their_counts_and_the_same_ones_again() -> None:
    counts = torch.tensor([0, 4, 0, 1, 3, 0], dtype=torch.int32)
    drawn = draw_rows(counts, 6, 16)
    assert torch.bincount(drawn, minlength=6).tolist() == [0, 8, 0, 2, 6, 0]
    assert torch.equal(drawn, draw_rows(counts, 6, 16))
    assert draw_rows(None, 10, 5).tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("counted", [False, True])
def test_what_drawn_rows_say_of_a_large_table_is_off_by_as_much_as_is_stated(counted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 8 * LOOK_ROWS
    table = torch.randn(rows, 8, generator=generator) * torch.arange(1.0, 9.0)
    counts = (1e6 / torch.arange(1, rows + 1)).int() if counted else None
    exact = weighted_moments(table, counts)[1].diagonal()
    drawn = weighted_moments(table[draw_rows(counts, rows, LOOK_ROWS)])[1].diagonal()
    assert float((drawn / exact - 1).square().mean().sqrt()) < 1.5 * (2 / LOOK_ROWS) ** 0.5
