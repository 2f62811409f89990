"""What every part of tamis stands on, and what an extension may build on: keyed random streams, checks, errors, state.

Nothing here knows a method, a trainer or a policy.
"""

from typing import TYPE_CHECKING

from tamis.core.lazy import lazy

if TYPE_CHECKING:
    from tamis.core.checks import check_choice, check_int, check_range, check_type
    from tamis.core.distributed import (
        all_mean_,
        all_sum_,
        broadcast_object,
        gather_objects,
        is_distributed,
        parallel_map,
        rank,
        rank_stretch,
        world_size,
    )
    from tamis.core.errors import NoEffectWarning, NotPolarisedError, PolicyError, TamisError
    from tamis.core.files import replace_file, write_atomically, write_tensors
    from tamis.core.models import device_of, evaluating, logits_of, to_device
    from tamis.core.progress import progress_bar
    from tamis.core.rng import check_seed, numpy_generator, seed_of, seeded_globals, torch_generator
    from tamis.core.state import from_jsonable, read_state, to_jsonable, write_state

__all__ = [
    "NoEffectWarning",
    "NotPolarisedError",
    "PolicyError",
    "TamisError",
    "all_mean_",
    "all_sum_",
    "broadcast_object",
    "check_choice",
    "check_int",
    "check_range",
    "check_seed",
    "check_type",
    "device_of",
    "evaluating",
    "from_jsonable",
    "gather_objects",
    "is_distributed",
    "logits_of",
    "numpy_generator",
    "parallel_map",
    "progress_bar",
    "rank",
    "rank_stretch",
    "read_state",
    "replace_file",
    "seed_of",
    "seeded_globals",
    "to_device",
    "to_jsonable",
    "torch_generator",
    "world_size",
    "write_atomically",
    "write_state",
    "write_tensors",
]

_HOMES = {
    "checks": ("check_choice", "check_int", "check_range", "check_type"),
    "distributed": (
        "all_mean_", "all_sum_", "broadcast_object", "gather_objects", "is_distributed", "parallel_map", "rank",
        "rank_stretch", "world_size",
    ),
    "errors": ("NoEffectWarning", "NotPolarisedError", "PolicyError", "TamisError"),
    "files": ("replace_file", "write_atomically", "write_tensors"),
    "models": ("device_of", "evaluating", "logits_of", "to_device"),
    "progress": ("progress_bar",),
    "rng": ("check_seed", "numpy_generator", "seed_of", "seeded_globals", "torch_generator"),
    "state": ("from_jsonable", "read_state", "to_jsonable", "write_state"),
}  # fmt: skip
__getattr__ = lazy(
    __name__, {name: f"tamis.core.{module}" for module, names in _HOMES.items() for name in names}, {*_HOMES, "types"}
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
