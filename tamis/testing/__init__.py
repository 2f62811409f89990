"""Contract suites: hold your own sampler or pruner to what tamis' own keep.

Subclass a suite in a pytest module and give the factory it asks for::

    class TestMySampler(SamplerContract):
        data_size = 24
        factory = "my_package.testing:make_sampler"      # importable, so that torchrun's processes can build it too

Needs pytest, transformers, accelerate and torchdata.
"""

from tamis.testing.collators import CollatorContract
from tamis.testing.distributed import run_distributed
from tamis.testing.pruners import PrunerContract, RegularizerContract
from tamis.testing.samplers import SamplerContract
from tamis.testing.toys import ScaleL1, ShuffleSampler
from tamis.testing.transforms import TransformContract

__all__ = [
    "CollatorContract",
    "PrunerContract",
    "RegularizerContract",
    "SamplerContract",
    "ScaleL1",
    "ShuffleSampler",
    "TransformContract",
    "run_distributed",
]
