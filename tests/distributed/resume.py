"""Run on each of two ranks: resumes with other loaders than Accelerate's usual one."""

import tempfile

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader

from tamis.callbacks import ResumableLoader
from tamis.callbacks.hf.pruning import _first_rows
from tamis.core.distributed import rank
from tamis.core.errors import TamisError
from tamis.search.journal import Journal
from tamis.testing.samplers import TRAINERS
from tamis.testing.toys import ShuffleSampler
from tamis.testing.trainers import Run, resume_mismatches
from tests.unit.test_resumable_loader import Told


def make_uneven(seed=3):
    """22 items: not a multiple of two batches of two, so that an epoch is filled up."""
    return ShuffleSampler(22, seed=seed)


def resumes(trainers, loader, batch_size, workers=0, accumulation=1):
    """Whatever differs after a resume at every step."""
    run = Run(make_uneven, 22, batch_size, workers, accumulation, loader)
    return [f"{name}: {text}" for name in trainers for text in resume_mismatches(TRAINERS[name], run)]


def different_samplers():
    """What a rank says if the others' sampler has another seed, with Trainer and with Accelerate."""
    said = []
    for train in (TRAINERS["trainer"], TRAINERS["accelerate"]):
        with tempfile.TemporaryDirectory() as folder:
            try:
                train(Run(lambda: ShuffleSampler(22, seed=rank()), 22, 2), folder)
            except TamisError as error:
                said.append(str(error))
    return said


def loops_on_two_processes():
    """What a plain loader is told, and one that gives a rank nothing; then the epochs that a prepared data set saw."""
    sampler, data, said = ShuffleSampler(16), Told(16), []
    few = ShuffleSampler(4)
    uneven = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False))
    none = uneven.prepare(DataLoader(Told(4), batch_size=4, sampler=few))
    for loader, order in ((DataLoader(data, batch_size=4, sampler=sampler), sampler), (none, few)):
        try:
            ResumableLoader(loader, order)
        except (TamisError, ValueError) as error:
            said.append(str(error))
    batches = ResumableLoader(Accelerator(cpu=True).prepare(DataLoader(data, batch_size=4, sampler=sampler)), sampler)
    return [said, [[batch["told"].unique().tolist() for batch in batches] for _ in batches.epochs(2)]]


def first_rows_of_different_data():
    """The rows that a cut is checked with, where each rank holds other data."""
    data = [{"x": torch.tensor([float(rank())])}] * 4
    loader = Accelerator(cpu=True).prepare(DataLoader(data, batch_size=2))
    return _first_rows(loader)["x"].tolist()


def different_searches():
    """What a rank says if it was given another seed than the others."""
    try:
        Journal(None, {"search": "toy", "seed": rank()})
    except TamisError as error:
        return str(error)
    return ""
