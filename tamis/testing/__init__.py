"""Contract suites: hold your own sampler or pruner to what tamis' own keep.

Subclass a suite in a pytest module and give the factory it asks for::

    class TestMySampler(SamplerContract):
        data_size = 24
        factory = "my_package.testing:make_sampler"      # importable, so that torchrun's processes can build it too

Needs pytest, transformers, accelerate and torchdata.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "CollatorContract": "tamis.testing.collators",
    "PrunerContract": "tamis.testing.pruners",
    "RegularizerContract": "tamis.testing.pruners",
    "SamplerContract": "tamis.testing.samplers",
    "ShuffleSampler": "tamis.testing.toys",
    "ScaleL1": "tamis.testing.toys",
    "TransformContract": "tamis.testing.transforms",
    "run_distributed": "tamis.testing.distributed",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tamis.testing' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
