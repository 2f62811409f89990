"""Where a Trainer's run stands in the data, and how Trainer is told where to go on.

Trainer counts optimizer steps, and takes them for positions: right as long as batch size, accumulation and number of
processes stay. A checkpoint of tamis holds the position itself, from which the batches to leave out are counted anew.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from tamis.callbacks.dealing import Dealing
from tamis.core.distributed import rank
from tamis.core.errors import TamisError

__all__ = [
    "Start",
    "check_sizes",
    "move_schedule",
    "start_at",
    "trainers_place",
    "trainers_start",
    "update_max_steps",
    "updates_per_epoch",
]


class Start(NamedTuple):
    """Where training goes on.

    Attributes:
        epoch: of the data.
        position: indices of the global order consumed in it, over all ranks.
        batches: the loader's batches that Trainer leaves out; a multiple of the accumulation steps.
        filling: indices that the rest of the epoch is filled up with.
    """

    epoch: int
    position: int = 0
    batches: int = 0
    filling: int = 0


def updates_per_epoch(loader: DataLoader[Any], args: Any) -> int:
    """Optimizer steps in an epoch, as Trainer counts them."""
    accumulation: int = args.gradient_accumulation_steps
    return max(math.ceil(len(loader) / accumulation), 1)


def start_at(epoch: int, position: int, total: int, loader: DataLoader[Any], dealing: Dealing, args: Any) -> Start:
    """Where ``loader`` goes on after ``position`` indices of ``epoch``, whoever consumed them.

    Args:
        epoch: >= 0.
        position: in [0, total].
        total: indices in an epoch.
        loader: of whole epochs.
        dealing: how ``loader`` deals them out.
        args: the trainer's.
    """
    if args.ignore_data_skip:
        return Start(epoch if dealing.batches(total - position) else epoch + 1)
    left = dealing.batches(total - position)
    if not left:
        return Start(epoch + 1)
    behind = len(loader) - left
    short = behind % args.gradient_accumulation_steps  # Trainer leaves out whole optimizer steps only
    if short and dealing.drop_last:
        behind, short = behind + args.gradient_accumulation_steps - short, 0
        return Start(epoch, position, behind) if behind < len(loader) else Start(epoch + 1)
    batches = behind - short
    if short:
        return Start(epoch, position, batches, (len(loader) - batches) * dealing.step - (total - position))
    return Start(epoch, position, batches, dealing.filling(total - position))


def trainers_start(state: Any, loader: DataLoader[Any], args: Any) -> tuple[int, int]:
    """The epoch and the batches to leave out that Trainer finds by itself."""
    epoch, updates = divmod(state.global_step, updates_per_epoch(loader, args))
    return epoch, 0 if args.ignore_data_skip else updates * args.gradient_accumulation_steps


def trainers_place(state: Any, loader: DataLoader[Any], dealing: Dealing, args: Any, total: int) -> dict[str, int]:
    """The place that Trainer's steps lead to, where a step means what it meant in the checkpoint (`check_sizes`).

    Args:
        state: the trainer's, of a checkpoint without a place.
        loader: of whole epochs.
        dealing: how ``loader`` deals them out.
        args: the trainer's.
        total: indices in an epoch.
    """
    epoch, batches = trainers_start(state, loader, args)
    position = min(batches * dealing.step, total)
    return {"epoch": epoch, "position": position, "updates": updates_per_epoch(loader, args)}


def check_sizes(state: Any, loader: DataLoader[Any], dealing: Dealing | None, args: Any) -> None:
    """Refuse a checkpoint whose position nobody knows, if its steps used another number of samples.

    Such checkpoints say how far in the epoch they were, and the batch size, from which it is seen.

    Args:
        state: the trainer's, as loaded.
        loader: of whole epochs.
        dealing: how ``loader`` deals them out, if known.
        args: the trainer's.

    Raises:
        TamisError: Trainer would go on elsewhere.
    """
    if not state.global_step or state.epoch is None:
        return
    epoch, updates = divmod(state.global_step, updates_per_epoch(loader, args))
    batches = updates * args.gradient_accumulation_steps
    there = (state.epoch - epoch) * len(loader)  # batches of this loader at the checkpoint
    same = 0 <= there < len(loader) if args.ignore_data_skip else abs(there - batches) < 0.5
    sizes = {args.train_batch_size} | (set() if dealing is None else {dealing.batch_size})
    unknown = state.train_batch_size is None or (dealing is None and args.auto_find_batch_size)
    if batches and not args.ignore_data_skip and not unknown:
        same = same and state.train_batch_size in sizes
    if not same:
        raise TamisError(
            f"the checkpoint at step {state.global_step} was {state.epoch:.6g} epochs into the data with batches of "
            f"{state.train_batch_size} and does not say the position (it is of release 0.1, or its batch sampler is "
            "somebody's own), and Trainer would go on elsewhere, since a step uses another number of samples now; "
            "resume with the batch size, gradient_accumulation_steps and number of processes that it was written with"
        )


def update_max_steps(state: Any, args: Any, start: Start, max_steps: int, num_train_epochs: int, updates: int) -> None:
    """Have Trainer stop when its epochs are done, where a step does not mean what it meant before.

    Steps are counted on from the checkpoint's, so that checkpoints keep their order.

    Args:
        state: the trainer's, changed in place.
        args: the trainer's.
        start: where training goes on.
        max_steps: what Trainer found for a run from the beginning.
        num_train_epochs: what Trainer found.
        updates: optimizer steps in an epoch.

    Raises:
        TamisError: ``max_steps`` was asked for, and Trainer would run out of epochs before.
    """
    done = start.epoch * updates + start.batches // args.gradient_accumulation_steps
    if args.max_steps <= 0:
        state.max_steps = state.global_step + max(max_steps - done, 0)
        return
    possible, left = max(num_train_epochs * updates - done, 0), args.max_steps - state.global_step
    if possible < left:
        raise TamisError(
            f"max_steps={args.max_steps}: the checkpoint's steps used more data than a step does now, so Trainer would "
            f"stop after {possible} of the {left} steps left; set "
            "gradient_accumulation_steps so that a step uses as many samples as before, or give "
            "num_train_epochs in place of max_steps"
        )


def move_schedule(scheduler: Any, optimizer: Any, step: int) -> None:
    """Set a schedule that counts steps to ``step``, so that it ends when training does; says so.

    Args:
        scheduler: a `LambdaLR`, as all of transformers' are; any other is left alone.
        optimizer: whose learning rates it sets.
        step: >= 0.
    """
    what = "the learning-rate schedule, of a kind that cannot be moved, goes on from its own step"
    if isinstance(scheduler, LambdaLR):
        scheduler.last_epoch = step
        rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        scheduler._last_lr = rates
        what = "the learning-rate schedule goes on from the same share of the training"
    if rank() == 0:
        warnings.warn(
            "a step uses another number of samples than when the checkpoint was written: the order of the data goes on "
            f"where it was, steps are counted on, and {what}; set gradient_accumulation_steps so that a step uses as "
            "many samples as before if nothing is to change",
            UserWarning,
            stacklevel=2,
        )
