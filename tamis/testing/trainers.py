"""The three trainers on toy data, each able to stop at any step and resume: what the contract suites compare."""

from __future__ import annotations

import atexit
import functools
import gc
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from tamis.callbacks import ResumableLoader, attach
from tamis.core.types import PathOrStr
from tamis.testing.toys import IndexedDataset, ToyModel

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["Run", "Trace", "quiet_arguments", "resume_mismatches", "run_accelerate", "run_plain", "run_trainer"]

EPOCHS = 2


@dataclass(frozen=True)
class Run:
    """How to train: the sampler's factory, loader and accumulation settings.

    Attributes:
        sampler: builds the sampler afresh (a resumed process builds it again).
        data_size: number of items of the data set.
        batch_size: per process.
        workers: loader workers.
        accumulation: micro-batches per optimizer step.
        loader: options of accelerate's ``DataLoaderConfiguration``; Trainer knows some of them.
    """

    sampler: Callable[[], Any]
    data_size: int
    batch_size: int = 4
    workers: int = 0
    accumulation: int = 1
    loader: Mapping[str, bool] = field(default_factory=dict)


@dataclass
class Trace:
    """What a training did: the indices of each micro-batch on this rank, and the final parameters."""

    seen: list[list[int]]
    parameters: list[torch.Tensor]
    checkpoints: list[Any] = field(default_factory=list)


def _trace(model: ToyModel, checkpoints: list[Any]) -> Trace:
    return Trace(model.seen, [p.detach().clone() for p in model.parameters()], checkpoints)


@functools.cache
def shorten_collections() -> None:
    """Import Trainer, and leave all that is imported by now out of garbage collections.

    Trainer collects garbage each time it trains: half a second, with its own imports looked through again.
    """
    from transformers import Trainer  # noqa: F401

    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else compiled modules complain that they leak


def quiet_arguments(folder: PathOrStr, **options: Any) -> TrainingArguments:
    """`TrainingArguments` for tests: CPU, no reports, no bars, nothing saved.

    Args:
        folder: ``output_dir``.
        options: override the quiet ones.
    """
    from transformers import TrainingArguments

    shorten_collections()
    defaults = dict(save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False)
    defaults |= dict(dataloader_pin_memory=False, learning_rate=0.05, logging_steps=1000)
    return TrainingArguments(output_dir=str(folder), **{**defaults, **options})


def run_trainer(run: Run, folder: str, resume: str | None = None) -> Trace:
    """Hugging Face Trainer, a checkpoint after every optimizer step; checkpoints are folders.

    Args:
        run: how to train.
        folder: where checkpoints go.
        resume: the checkpoint to go on from.
    """
    from transformers import Trainer

    arguments = quiet_arguments(
        folder,
        per_device_train_batch_size=run.batch_size,
        gradient_accumulation_steps=run.accumulation,
        num_train_epochs=EPOCHS,
        dataloader_num_workers=run.workers,
        accelerator_config=dict(run.loader),
        save_steps=1,
        save_strategy="steps" if resume is None else "no",
    )
    model = ToyModel()
    trainer = Trainer(model, arguments, train_dataset=IndexedDataset(run.data_size))
    attach(trainer, run.sampler())
    trainer.train(resume_from_checkpoint=resume)
    folders = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return _trace(model, [str(path) for path in folders] if resume is None else [])


def run_accelerate(run: Run, folder: str, resume: str | None = None) -> Trace:
    """An Accelerate loop over a `ResumableLoader`, a checkpoint after every optimizer step.

    Args:
        run: how to train.
        folder: where checkpoints go.
        resume: the checkpoint to go on from.
    """
    from accelerate import Accelerator, DataLoaderConfiguration

    options = DataLoaderConfiguration(**run.loader)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=run.accumulation, dataloader_config=options)
    sampler, model = run.sampler(), ToyModel()
    loader = DataLoader(IndexedDataset(run.data_size), run.batch_size, sampler=sampler, num_workers=run.workers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    batches = ResumableLoader(loader, sampler)
    attach(accelerator, batches)
    if resume is not None:
        accelerator.load_state(resume)
    checkpoints: list[Any] = []
    for _ in batches.epochs(EPOCHS):
        for batch in batches:
            with accelerator.accumulate(wrapped):
                accelerator.backward(wrapped(**batch)["loss"])
                optimizer.step()
                optimizer.zero_grad()
            if resume is None and accelerator.sync_gradients:
                checkpoints.append(f"{folder}/{len(checkpoints)}")
                accelerator.save_state(checkpoints[-1])
    return _trace(model, checkpoints)


def run_plain(run: Run, folder: str, resume: dict[str, Any] | None = None) -> Trace:
    """A plain PyTorch loop over a `ResumableLoader`; a checkpoint is a state dict in memory.

    Args:
        run: how to train.
        folder: not used.
        resume: the checkpoint to go on from.
    """
    sampler, model = run.sampler(), ToyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    loader = DataLoader(IndexedDataset(run.data_size), run.batch_size, sampler=sampler, num_workers=run.workers)
    batches = ResumableLoader(loader, sampler)
    if resume is not None:
        batches.load_state_dict(resume["batches"])
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
    checkpoints: list[Any] = []
    for _ in batches.epochs(EPOCHS):
        for batch in batches:
            (model(**batch)["loss"] / run.accumulation).backward()
            last = batches.batch == len(loader)
            if batches.batch % run.accumulation == 0 or last:
                optimizer.step()
                optimizer.zero_grad()
                if resume is None:
                    copies = {k: v.clone() for k, v in model.state_dict().items()}
                    state = torch.utils._pytree.tree_map(
                        lambda x: x.clone() if isinstance(x, torch.Tensor) else x, optimizer.state_dict()
                    )
                    checkpoints.append({"batches": batches.state_dict(), "model": copies, "optimizer": state})
    return _trace(model, checkpoints)


def resume_mismatches(train: Callable[..., Trace], run: Run) -> list[str]:
    """Train once, then resume from EVERY checkpoint; describe each that differs from the uninterrupted run.

    Compared bit for bit: the indices of all remaining batches on this rank, and the final parameters.

    Args:
        train: `run_trainer`, `run_accelerate` or `run_plain`.
        run: how to train.

    Returns:
        One line for each difference.
    """
    with tempfile.TemporaryDirectory() as folder:
        from tamis.core.distributed import broadcast_object

        shared = broadcast_object(folder)  # every rank reads what rank 0 wrote
        whole = train(run, f"{shared}/whole")
        wrong = []
        for number, checkpoint in enumerate(whole.checkpoints):
            resumed = train(run, f"{shared}/again", checkpoint)
            expected = whole.seen[len(whole.seen) - len(resumed.seen) :] if resumed.seen else []
            steps_left = len(whole.checkpoints) - number - 1
            if resumed.seen != expected or (steps_left > 0) != bool(resumed.seen):
                wrong.append(f"checkpoint {number}: indices {resumed.seen} instead of {expected}")
            for old, new in zip(whole.parameters, resumed.parameters, strict=True):
                if not torch.equal(old, new):
                    wrong.append(f"checkpoint {number}: parameters differ by {(old - new).abs().max():.3g}")
        _barrier()
        return wrong


def _barrier() -> None:
    from tamis.core.distributed import gather_objects

    gather_objects(None)
