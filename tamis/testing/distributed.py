"""Run a function in N real processes under ``torchrun`` (gloo, CPU) and get every rank's result.

``accelerate launch --cpu --num_processes 2`` may silently start one process; here the world size is checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["resolve", "run_distributed"]


def resolve(name: str) -> Callable[..., Any]:
    """The object that ``"package.module:attribute"`` names."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), attribute)
    return function


def run_distributed(function: str, *, nproc: int = 2, timeout: float = 300, **kwargs: Any) -> list[Any]:
    """``function(**kwargs)`` in ``nproc`` processes; the list of their JSON results in rank order.

    Args:
        function: ``"package.module:name"``, importable from the current directory.
        nproc: number of processes; each checks that the world really has that size.
        timeout: seconds after which the processes are killed.
        kwargs: JSON values.

    Raises:
        RuntimeError: a process failed; the message ends with the processes' output.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc)]
        command += ["-m", "tamis.testing", function, folder, json.dumps(kwargs)]
        path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)  # noqa: S603
        if done.returncode != 0:
            raise RuntimeError(f"{function} failed under torchrun:\n{(done.stdout + done.stderr)[-6000:]}")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(nproc)]


def main(function: str, folder: str, kwargs: str) -> None:
    """What each process of `run_distributed` does."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        if dist.get_world_size() != int(os.environ["WORLD_SIZE"]) or dist.get_world_size() < 2:
            raise RuntimeError(f"world_size={dist.get_world_size()}: the launcher did not start the processes")
        result = resolve(function)(**json.loads(kwargs))
        (Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(result))
        dist.barrier()
    finally:
        dist.destroy_process_group()
