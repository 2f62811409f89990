"""Runs that go on with another number of processes or another batch size: the global order must go on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from tamis.testing.distributed import resolve, run_distributed
from tamis.testing.trainers import EPOCHS, Run, Trace, run_accelerate, run_trainer

__all__ = ["elastic_mismatches", "expected_order", "train_on"]

TRAINERS: dict[str, Callable[..., Trace]] = {"trainer": run_trainer, "accelerate": run_accelerate}


def train_on(processes: int, **call: Any) -> tuple[list[int], list[str]]:
    """Train on so many processes; the indices seen on all of them in the global order, and the checkpoints.

    Args:
        processes: 1 or more.
        call: arguments of `train_here`.
    """
    if processes == 1:
        results = [train_here(**call)]
    else:
        results = run_distributed("tamis.testing.elastic:train_here", nproc=processes, **call)
    dealt = zip_longest(*(result["seen"] for result in results), fillvalue=())
    return [index for step in dealt for batch in step for index in batch], results[0]["checkpoints"]


def train_here(
    trainer: str, factory: str, data_size: int, folder: str, resume: str | None = None, **options: Any
) -> dict[str, Any]:
    """On each rank: train, and say which indices this rank saw.

    Args:
        trainer: ``"trainer"`` or ``"accelerate"``.
        factory: of the sampler.
        data_size: number of items.
        folder: for checkpoints.
        resume: the checkpoint to go on from.
        options: of `Run`.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a step uses another number of samples", UserWarning)
        trace = TRAINERS[trainer](Run(resolve(factory), data_size, **options), folder, resume)
    return {"seen": trace.seen, "checkpoints": trace.checkpoints}


def expected_order(factory: str, epoch: int, position: int, step: int, processes: int) -> list[int]:
    """The global order from there to the end of the run, as ``processes`` deal it out.

    Args:
        factory: of the sampler.
        epoch: of the position.
        position: indices consumed in that epoch.
        step: indices that a batch uses up on all processes; the epoch is filled up to a multiple of it, on several.
        processes: 1 or more.
    """
    sampler, order = resolve(factory)(), []
    for number in range(epoch, EPOCHS):
        sampler.set_epoch(number)
        whole = list(sampler)
        rest = whole[position:]
        order += rest + (whole * step)[: -len(rest) % step if processes > 1 else 0]
        position = 0
    return order


def elastic_mismatches(
    trainer: str, factory: str, data_size: int, folder: str, sizes: tuple[Mapping[str, int], Mapping[str, int]],
    every: int = 1,
) -> list[str]:  # fmt: skip
    """Train with ``sizes[0]``, go on with ``sizes[1]`` from every checkpoint; describe each order that is not the one.

    Args:
        trainer: ``"trainer"`` or ``"accelerate"``.
        factory: of the sampler.
        data_size: number of items.
        folder: for checkpoints.
        sizes: ``processes``, ``batch_size`` and ``accumulation``, before and after.
        every: only each so manieth checkpoint.
    """
    before, after = ({"processes": 1, "batch_size": 2, "accumulation": 1, **size} for size in sizes)
    call: dict[str, Any] = dict(trainer=trainer, factory=factory, data_size=data_size)
    _, checkpoints = train_on(**before, folder=f"{folder}/before", **call)
    length = len(resolve(factory)())
    used = before["processes"] * before["batch_size"] * before["accumulation"]
    updates = -(-length // used)
    wrong = []
    for number, checkpoint in list(enumerate(checkpoints))[::-every]:
        epoch, update = divmod(number + 1, updates)
        seen, _ = train_on(**after, folder=f"{folder}/after", resume=checkpoint, **call)
        step = after["processes"] * after["batch_size"]
        right = expected_order(factory, epoch, min(update * used, length), step, after["processes"])
        if seen != right:
            wrong.append(f"{trainer}, checkpoint {number}: {seen} instead of {right}")
    return wrong
