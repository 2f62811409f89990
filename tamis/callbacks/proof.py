"""That a sampler is really drawn from: conflicts told when they are made, and the proof at the first batch."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from tamis.callbacks.base import check_length
from tamis.callbacks.dealing import Dealing, batch_samplers, dispatches, innermost_sampler
from tamis.core.distributed import gather_objects, rank, world_size
from tamis.core.errors import TamisError

__all__ = ["check_drawn", "check_loader", "check_ranks", "check_strategy"]


def check_strategy(args: Any) -> None:
    """Refuse training arguments that ask for an order of their own.

    Args:
        args: `transformers.TrainingArguments`.

    Raises:
        ValueError: ``train_sampling_strategy`` (in older releases ``group_by_length``) is set.
    """
    strategy = str(getattr(args, "train_sampling_strategy", "random"))
    grouped = getattr(args, "group_by_length", False)
    if strategy != "random" or grouped:
        name = "group_by_length=True" if grouped else f"train_sampling_strategy={strategy!r}"
        raise ValueError(
            f"{name}: asks Trainer for an order of its own, which the attached sampler would replace; leave it out of "
            "the training arguments, or leave the sampler out"
        )


def check_loader(sampler: Any, loader: DataLoader[Any]) -> None:
    """Refuse a trainer's loader that cannot be made to draw from ``sampler``.

    Args:
        sampler: the one attached.
        loader: what the trainer's ``get_train_dataloader`` returned.

    Raises:
        TamisError: the loader has no batch sampler, or one without a sampler inside, or every process would see all
            data; the message names the cure.
        ValueError: the loader's own sampler has another length, from which the trainer has computed its steps.
    """
    batches = batch_samplers(loader)[-1]
    if batches is None or not hasattr(batches, "sampler"):
        what = "no batch sampler" if batches is None else f"a {type(batches).__name__} of its own, without a sampler"
        raise TamisError(f"the trainer's get_train_dataloader gives a loader with {what} inside: {_cure(batches)}")
    if world_size() > 1 and not hasattr(loader, "end_of_dataloader"):
        raise TamisError(
            "the trainer's get_train_dataloader gives a plain DataLoader, so that each process would see all of the "
            "data; return self.accelerator.prepare(loader) from it"
        )
    present = innermost_sampler(loader)
    if present is not sampler:
        check_length(sampler, len(present))


def check_drawn(sampler: Any, loader: DataLoader[Any], iterations: int | None) -> None:
    """Refuse to train on batches that were not drawn from ``sampler``.

    Args:
        sampler: the one attached.
        loader: the trainer's, after its first batch.
        iterations: the sampler's ``iterations`` before that; None for a sampler that does not count them, which must
            be in a batch sampler of PyTorch's own.

    Raises:
        TamisError: it was not drawn from.
    """
    known = Dealing.of(loader) is not None
    if iterations is None:
        drawn = known
    else:
        drawn = sampler.iterations > iterations or (known and dispatches(loader) and rank() > 0)  # rank 0 draws for all
    if not drawn:
        batches = batch_samplers(loader)[-1]
        raise TamisError(
            f"{type(sampler).__name__} was attached, but the first batch was not drawn from it: the trainer's batches "
            f"come from a {type(batches).__name__}; {_cure(batches)}"
        )


def check_ranks(sampler: Any) -> None:
    """Refuse ranks that hold different samplers: each would deal itself batches of another order. Every rank calls it.

    Args:
        sampler: the one attached, with its state restored.

    Raises:
        TamisError: on all ranks; the message names what differs.
    """
    if world_size() == 1:
        return
    state = {"class": type(sampler).__name__, "length": len(sampler), **sampler.state_dict()}
    found = gather_objects({name: _checksum(value) for name, value in state.items()})
    names = sorted(name for name in found[0] if any(other.get(name) != found[0][name] for other in found))
    if names:
        raise TamisError(
            f"{type(sampler).__name__}: the processes hold different ones ({', '.join(names)} differ), so that they "
            "would not share one order; build it from the same seed, features and weights in every process"
        )


def _checksum(value: object) -> int:
    """Of a sampler's state, whatever it nests."""
    if isinstance(value, dict):
        return zlib.crc32(repr([(str(key), _checksum(item)) for key, item in sorted(value.items())]).encode())
    if isinstance(value, (list, tuple)):
        return zlib.crc32(repr([_checksum(item) for item in value]).encode())
    if isinstance(value, (torch.Tensor, np.ndarray)):
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return zlib.crc32(repr(value).encode())


def _cure(batches: Any) -> str:
    module = type(batches).__module__
    if module.startswith("sentence_transformers"):
        return 'set batch_sampler="batch_sampler" in SentenceTransformerTrainingArguments, or leave the sampler out'
    return (
        "have get_train_dataloader return self.accelerator.prepare(DataLoader(dataset, batch_size=..., "
        "sampler=self._get_train_sampler(dataset))), or leave the sampler out"
    )
