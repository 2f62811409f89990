"""Run functions in N real processes under ``torchrun`` (gloo, CPU) and get every rank's result.

The processes are started once and kept for the calls that follow: importing Trainer takes each of them longer than
most checks do. ``accelerate launch --cpu --num_processes 2`` may silently start one process; here the world size is
checked.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

__all__ = ["resolve", "run_distributed"]

_PAUSE = 0.02  # seconds between two looks for a file


def resolve(name: str) -> Callable[..., Any]:
    """The object that ``"package.module:attribute"`` names."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def run_distributed(function: str, *, nproc: int = 2, timeout: float = 600, **kwargs: Any) -> list[Any]:
    """``function(**kwargs)`` in ``nproc`` processes; the list of their JSON results in rank order.

    The processes have the folder and the environment of the first call, and serve the next ones until one fails.
    Each call begins with torch's generator as it is in a fresh process.

    Args:
        function: ``"package.module:name"``, importable from the current directory.
        nproc: number of processes; each checks that the world really has that size.
        timeout: seconds after which the processes are killed.
        kwargs: JSON values.

    Raises:
        RuntimeError: a process failed, or the time is over; the message ends with the processes' output.
    """
    world = _worlds.pop(nproc, None) or _World(nproc)
    results = world.call(function, kwargs, timeout)
    _worlds[nproc] = world  # not put back after an error
    return results


class _World:
    """Processes under torchrun that wait for calls, which come and are answered as files in one folder."""

    def __init__(self, nproc: int) -> None:
        self.nproc, self.calls = nproc, 0
        self._keeper = tempfile.TemporaryDirectory()
        self.folder = Path(self._keeper.name)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc)]
        command += ["-m", "tamis.testing", str(self.folder), str(os.getpid())]
        path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
        atexit.register(self.close)

    def call(self, function: str, kwargs: dict[str, Any], timeout: float) -> list[Any]:
        """The ranks' results, or `RuntimeError` and no more processes."""
        log, end = self.folder / "log", time.monotonic() + timeout
        printed = log.stat().st_size
        answers = [self.folder / f"{self.calls}.{rank}.json" for rank in range(self.nproc)]
        _write(self.folder / f"{self.calls}.json", [function, kwargs])
        self.calls += 1
        while not all(answer.exists() for answer in answers):
            late = time.monotonic() > end
            if late or self.process.poll() is not None:
                output = log.read_bytes()[printed:].decode(errors="replace")
                self.close()
                why = f"took more than {timeout:g} s" if late else "failed"
                raise RuntimeError(f"{function} {why} under torchrun:\n{output[-6000:]}")
            time.sleep(_PAUSE)
        return [json.loads(answer.read_text()) for answer in answers]

    def close(self) -> None:
        """End the processes: torchrun, told to end, ends its own."""
        atexit.unregister(self.close)
        self.process.terminate()
        self.process.wait()
        self._keeper.cleanup()


_worlds: dict[int, _World] = {}


def main(folder: str, owner: str) -> None:
    """What each process of a `_World` does: answer calls until the process that made it is gone.

    Args:
        folder: where calls and answers lie, as JSON.
        owner: the process that asks, its number.
    """
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        if dist.get_world_size() != int(os.environ["WORLD_SIZE"]) or dist.get_world_size() < 2:
            raise RuntimeError(f"world_size={dist.get_world_size()}: the launcher did not start the processes")
        for number in count():
            call = Path(folder) / f"{number}.json"
            while not call.exists():
                if not _lives(int(owner)):
                    return
                time.sleep(_PAUSE)
            function, kwargs = json.loads(call.read_text())
            with torch.random.fork_rng():
                result = resolve(function)(**kwargs)
            dist.barrier()
            _write(Path(folder) / f"{number}.{dist.get_rank()}.json", result)
    finally:
        dist.destroy_process_group()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _write(path: Path, value: object) -> None:
    """JSON that is there as a whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)
