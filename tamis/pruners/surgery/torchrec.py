"""A pruning plan as TorchRec knows tables: one config per table, with its width and its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.core.errors import PolicyError

__all__ = ["as_objects", "table_configs"]

_FLOATS = {4: "FP32", 2: "FP16"}


def table_configs(plan: Any) -> dict[str, dict[str, Any]]:
    """See `PruningPlan.to_torchrec`."""
    configs: dict[str, dict[str, Any]] = {}
    for path, table in plan.tables.items():
        if table.form in ("blocks", "values"):
            raise PolicyError(
                f"PruningPlan.to_torchrec: the table {path!r} keeps {table.form}, and TorchRec's tables have one width "
                "for all its rows; prune whole columns (DimReg)"
            )
        width, stored = len(plan.kept[path]), plan.stored.get(path)
        if stored is None and table.itemsize not in _FLOATS:
            raise PolicyError(
                f"PruningPlan.to_torchrec: the table {path!r} has numbers of {table.itemsize} bytes, TorchRec has "
                "float32 and float16; cut the model in one of them"
            )
        if not width:
            continue  # TorchRec has no tables without columns: what reads it reads zeros
        name = path.replace(".", "_")  # a module name there, which must hold no dot
        if name in {other["name"] for other in configs.values()}:
            raise PolicyError(f"PruningPlan.to_torchrec: two tables are called {name!r} without dots; rename one")
        configs[path] = {
            "name": name,
            "num_embeddings": table.rows,
            "embedding_dim": width,
            "data_type": stored.upper() if stored else _FLOATS[table.itemsize],
            "feature_names": [alias.replace(".", "_") for alias in (path, *table.tied)],
        }
    return configs


def as_objects(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same as `torchrec.EmbeddingBagConfig` objects.

    Raises:
        ImportError: torchrec is not there, or does not load with this torch.
    """
    try:
        from torchrec import EmbeddingBagConfig
        from torchrec.types import DataType
    except (ImportError, OSError) as error:  # fbgemm's library is built for one torch
        raise ImportError(
            f"to_torchrec(objects=True): torchrec cannot be imported ({error}); install torchrec and fbgemm-gpu of the "
            "release that fits your torch, or take the dicts: to_torchrec()"
        ) from error
    return {
        path: EmbeddingBagConfig(**{**config, "data_type": DataType(config["data_type"])})
        for path, config in configs.items()
    }
