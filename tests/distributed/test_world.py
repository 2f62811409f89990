"""`run_distributed`: processes that are really there, stay for the next call, and say what went wrong."""

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from tamis.core.distributed import parallel_map
from tamis.testing import run_distributed

HERE = "tests.distributed.test_world"


def who():
    return [os.getpid(), dist.get_rank(), dist.get_world_size(), float(torch.rand(()))]


def fail_on_rank(rank):
    if dist.get_rank() == rank:
        raise ValueError("my own words")
    dist.barrier()


def deal_with_a_timeout_of_my_own():
    store = dist.distributed_c10d._get_default_store()
    before = store.timeout
    store.set_timeout(timedelta(seconds=77))
    inside = parallel_map(lambda item: store.timeout.total_seconds() + item, range(5))
    left = store.timeout.total_seconds()
    store.set_timeout(before)
    return [inside, left]


def sleep():
    time.sleep(60)


def gone(process):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_processes_stay_for_the_next_call_until_one_fails(monkeypatch):
    monkeypatch.setattr("tamis.testing.distributed._worlds", {})  # other tests' processes live on
    first = run_distributed(f"{HERE}:who")
    assert [rank for _, rank, _, _ in first] == [0, 1]
    assert [size for _, _, size, _ in first] == [2, 2]
    assert len({os.getpid(), *(process for process, *_ in first)}) == 3
    assert run_distributed(f"{HERE}:who") == first  # the same processes, the same generators
    with pytest.raises(RuntimeError, match="sleep took more than 1 s"):
        run_distributed(f"{HERE}:sleep", timeout=1)
    assert all(gone(process) for process, *_ in first)
    with pytest.raises(RuntimeError, match=r"fail_on_rank failed under torchrun:(.|\n)*my own words"):
        run_distributed(f"{HERE}:fail_on_rank", rank=1)


def test_dealing_items_out_leaves_the_stores_timeout_alone():
    assert run_distributed(f"{HERE}:deal_with_a_timeout_of_my_own") == [[[77.0, 78.0, 79.0, 80.0, 81.0], 77.0]] * 2
