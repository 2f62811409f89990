"""Where a search of rounds stands: steps that are done once and for ever, and the states of a training between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tamis.core.distributed import broadcast_object, is_distributed, rank
from tamis.core.errors import TamisError
from tamis.core.files import write_tensors
from tamis.core.types import Stateful
from tamis.search.journal import Journal, Record

__all__ = ["START", "SchedulerLike", "States", "Steps"]

START = "start"  # the state before any update


class Steps:
    """The steps of a search, in their one order; those in the journal are not done again.

    Args:
        journal: of `Journal`; its record ``k`` is step ``k``.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.count = 0

    def run(self, compute: Callable[[], Record], inputs: str | None = None) -> Record:
        """The next step's record: from the journal, else ``compute()``, on disk when this returns.

        Args:
            compute: makes the record.
            inputs: fingerprint of the data that it is made from; None where there is none.
        """
        return self.run_many([0], lambda _: [compute()], inputs=[inputs])[0]

    def run_many(
        self,
        items: list[int],
        compute: Callable[[list[int]], list[Record]],
        at_once: int = 1,
        inputs: list[str | None] | None = None,
    ) -> list[Record]:
        """The next ``len(items)`` steps, computed ``at_once`` at a time; every rank gets rank 0's records.

        Args:
            items: what each step is computed from.
            compute: items -> their records.
            at_once: steps between two writes.
            inputs: as `run`, of each step.

        Raises:
            TamisError: a step in the journal was made from other data.
        """
        inputs = inputs or [None] * len(items)
        first, self.count = self.count, self.count + len(items)
        missing = [k for k in range(len(items)) if first + k not in self.journal.records]
        for k in set(range(len(items))) - set(missing):
            if self.journal.records[first + k].get("inputs") != inputs[k]:
                raise TamisError(
                    f"{self.journal.path}: step {first + k} is of other data: train or its order has changed; use "
                    "another out=, or the same data, to go on"
                )
        for at in range(0, len(missing), at_once):
            part = missing[at : at + at_once]
            records = broadcast_object(compute([items[k] for k in part]))
            known = [{} if inputs[k] is None else {"inputs": inputs[k]} for k in part]
            self.journal.append([{"trial": first + k, **o, **r} for k, o, r in zip(part, known, records, strict=True)])
        return [self.journal.records[first + k] for k in range(len(items))]


class SchedulerLike(Stateful, Protocol):
    """A learning rate scheduler, as torch's."""

    def step(self) -> object:
        """After each update."""
        ...


class States:
    """Named states of model, optimizer and scheduler, in memory or (with ``folder``) as safetensors files.

    Args:
        model: the model in training.
        optimizer: its optimizer, or None.
        scheduler: of the learning rate, or None.
        folder: where files go; None keeps copies in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        scheduler: SchedulerLike | None,
        folder: Path | None,
    ) -> None:
        self.model, self.optimizer, self.scheduler, self.folder = model, optimizer, scheduler, folder
        self.memory: dict[str, tuple[dict[str, Tensor], str]] = {}
        self.now = ""  # the name of the state that the model is in

    def save(self, name: str) -> None:
        """Keep the present state as ``name``; on several processes that of rank 0, which all are in afterwards.

        Args:
            name: of the argument or state.
        """
        tensors: dict[str, Tensor] = {}
        parts = {"model": self.model.state_dict()}
        for part in ("optimizer", "scheduler"):
            if getattr(self, part) is not None:
                parts[part] = getattr(self, part).state_dict()
        text = json.dumps(_flatten(parts, "", tensors))
        if is_distributed():  # each trained a copy, and kernels need not be equal to the last bit
            tensors, text = broadcast_object((tensors, text))
            self._load(tensors, text)
        self.now = name
        if self.folder is None:
            self.memory[name] = tensors, text
        elif rank() == 0:
            write_tensors(self._path(name), tensors, {"state": text})

    def restore(self, name: str) -> None:
        """Bring model, optimizer and scheduler to the state ``name``, if they are in another one.

        Args:
            name: of the argument or state.

        Raises:
            TamisError: its file is gone.
        """
        if self.now == name:
            return
        if self.folder is None:
            tensors, text = self.memory[name]
        else:
            from safetensors import safe_open

            if not self._path(name).exists():
                raise TamisError(f"{self._path(name)}: is missing; restore it, or begin anew in another folder")
            with safe_open(self._path(name), "pt") as file:
                text = file.metadata()["state"]
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no iterator)
        self._load(tensors, text)
        self.now = name

    def _load(self, tensors: dict[str, Tensor], text: str) -> None:
        parts = _unflatten(json.loads(text), tensors)
        self.model.load_state_dict(parts["model"])
        for part in ("optimizer", "scheduler"):
            if part in parts and getattr(self, part) is not None:
                getattr(self, part).load_state_dict(parts[part])

    def has(self, name: str) -> bool:
        """True if ``name`` was saved.

        Args:
            name: of the argument or state.
        """
        return name in self.memory if self.folder is None else self._path(name).exists()

    def drop(self, name: str) -> None:
        """Forget a state.

        Args:
            name: of the argument or state.
        """
        self.memory.pop(name, None)
        if self.folder is not None and rank() == 0:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return (self.folder or Path()) / f"{name}.safetensors"


def _flatten(value: object, where: str, tensors: dict[str, Tensor]) -> object:
    """JSON of ``value``; its tensors go to ``tensors`` as copies. Dicts become pairs, so that int keys stay int."""
    if isinstance(value, Tensor):
        tensors[where] = value.detach().cpu().clone().contiguous()
        return {"tensor": where}
    if isinstance(value, dict):
        return {"dict": [[k, _flatten(v, f"{where}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_flatten(v, f"{where}/{k}", tensors) for k, v in enumerate(value)]
        return {"list": items, "tuple": isinstance(value, tuple)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"state{where}: must be tensors and JSON values, got {type(value).__name__}")


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].clone()
    if "dict" in value:
        return {k: _unflatten(v, tensors) for k, v in value["dict"]}
    items = [_unflatten(v, tensors) for v in value["list"]]
    return tuple(items) if value["tuple"] else items
