"""Settings of a saved `DimReg`: what earlier releases called them, and which a new one takes over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tamis.pruners.budget import Budget
from tamis.pruners.dimreg.config import DimRegConfig, ThesisConfig

__all__ = ["adopted", "in_todays_words"]


def in_todays_words(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings as this release writes them: release 0.1 wrote ``keep=0.2`` beside another budget too."""
    if saved.get("size") is not None or saved.get("budget_bytes") is not None:
        return {**saved, "keep": None}
    return dict(saved)


def adopted(
    saved: Mapping[str, Any], budget: Budget, config: DimRegConfig | ThesisConfig, by_default: tuple[bool, bool]
) -> tuple[Budget, DimRegConfig | ThesisConfig]:
    """The budget and the settings that go on from ``saved``: what the user gave, and of the rest what was saved.

    So a training that an earlier release began with its defaults goes on with them, although the defaults changed.

    Args:
        saved: `in_todays_words`.
        budget: this pruner's.
        config: this pruner's.
        by_default: whether the user left the first, and the second, to the defaults.
    """
    if by_default[0]:
        given = {name: saved.get(name) for name in ("keep", "size")}
        budget = Budget(**given, bytes=saved.get("budget_bytes"))
    if by_default[1] and saved.get("split") == "budget":
        known = {field.name for field in fields(DimRegConfig)}
        config = DimRegConfig(**{name: value for name, value in saved.items() if name in known})
    return budget, config
