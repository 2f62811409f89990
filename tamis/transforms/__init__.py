"""Transforms: what is done to a sample on its way to the model, as a saved policy says."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "LabelAwareAugment": "tamis.transforms.label_aware",
    "LabelAwareDataset": "tamis.transforms.label_aware_data",
    "LabelAwarePolicy": "tamis.transforms.label_aware_policy",
    "OPERATIONS": "tamis.transforms.ops",
    "apply_operations": "tamis.transforms.ops",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tamis.transforms' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
