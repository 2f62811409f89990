"""The algorithms that propose trials, ignorant of what is searched for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Predictor": "tamis.search.optimizers.predictor",
    "PredictorConfig": "tamis.search.optimizers.predictor",
    "multisets": "tamis.search.optimizers.mrmr",
    "select": "tamis.search.optimizers.mrmr",
    "guided_local_search": "tamis.search.optimizers.guided_local_search",
    "AgentConfig": "tamis.search.optimizers.actor_critic",
    "propose": "tamis.search.optimizers.bayesian",
    "train_agent": "tamis.search.optimizers.actor_critic",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tamis.search.optimizers' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
