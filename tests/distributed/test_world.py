"""`run_distributed`: processes that are really there, stay for the next call, and say what went wrong."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from tamis.testing import run_distributed

HERE = "tests.distributed.test_world"


def who():
    return [os.getpid(), dist.get_rank(), dist.get_world_size(), float(torch.rand(()))]


def fail_on_rank(rank):
    if dist.get_rank() == rank:
        raise ValueError("my own words")
    dist.barrier()


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
