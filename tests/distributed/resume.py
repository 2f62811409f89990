"""Run on each of two ranks: resumes with other loaders than Accelerate's usual one."""

from tamis.core.distributed import rank
from tamis.core.errors import TamisError
from tamis.search.journal import Journal
from tamis.testing.samplers import TRAINERS
from tamis.testing.toys import ShuffleSampler
from tamis.testing.trainers import Run, resume_mismatches


def make_uneven(seed=3):
    """22 items: not a multiple of two batches of two, so that an epoch is filled up."""
    return ShuffleSampler(22, seed=seed)


def resumes(trainers, loader, batch_size, workers=0, accumulation=1):
    """Whatever differs after a resume at every step."""
    run = Run(make_uneven, 22, batch_size, workers, accumulation, loader)
    return [f"{name}: {text}" for name in trainers for text in resume_mismatches(TRAINERS[name], run)]


def different_searches():
    """What a rank says if it was given another seed than the others."""
    try:
        Journal(None, {"search": "toy", "seed": rank()})
    except TamisError as error:
        return str(error)
    return ""
