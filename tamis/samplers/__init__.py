"""Samplers: a global order that is a pure function of (seed, epoch, state), for any trainer."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Alignment": "tamis.samplers.curriculum_scorers",
    "BatchSelector": "tamis.samplers.weighted_batch",
    "CompetenceSampler": "tamis.samplers.curriculum_scorers",
    "CurriculumFeatures": "tamis.samplers.curriculum_state",
    "CurriculumPolicy": "tamis.samplers.curriculum",
    "CurriculumSampler": "tamis.samplers.curriculum",
    "Length": "tamis.samplers.curriculum_scorers",
    "LogLikelihood": "tamis.samplers.curriculum_scorers",
    "LossDifference": "tamis.samplers.curriculum_scorers",
    "Rarity": "tamis.samplers.curriculum_scorers",
    "SampleFeatures": "tamis.samplers.features",
    "StatefulSampler": "tamis.samplers.base",
    "SwiftLaw": "tamis.samplers.swift_law",
    "SwiftPolicy": "tamis.samplers.swift",
    "SwiftSampler": "tamis.samplers.swift",
    "WeightedSampler": "tamis.samplers.weighted",
    "curriculum_features": "tamis.samplers.curriculum_state",
    "effective_sample_size": "tamis.samplers.weighted",
    "log_likelihoods": "tamis.samplers.curriculum_loss",
    "sample_features": "tamis.samplers.features",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tamis.samplers' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
