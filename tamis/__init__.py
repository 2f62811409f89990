"""tamis: learn which data is worth training on, and which part of each input is worth keeping."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "DataInfo": "tamis._core.policy",
    "NoEffectWarning": "tamis._core.errors",
    "NotPolarisedError": "tamis._core.errors",
    "Policy": "tamis._core.policy",
    "PolicyError": "tamis._core.errors",
    "SearchInfo": "tamis._core.policy",
    "TamisError": "tamis._core.errors",
    "fingerprint": "tamis._core.policy",
    "load_policy": "tamis._core.policy",
    "load_pruned": "tamis.pruners",
    "register_policy": "tamis._core.policy",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tamis' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
