"""Searches: offline routines that find a policy, journaled, resumable and spread over processes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "carry_policy": "tamis.search.label_aware",
    "search_label_aware": "tamis.search.label_aware",
    "search_frames": "tamis.search.frames",
    "UpdateConfig": "tamis.search.curriculum",
    "search_curriculum": "tamis.search.curriculum",
    "search_swift": "tamis.search.swift",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tamis.search' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
