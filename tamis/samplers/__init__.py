"""Samplers: a global order that is a pure function of (seed, epoch, state), for any trainer."""

from tamis.samplers.base import StatefulSampler
from tamis.samplers.curriculum import CurriculumPolicy, CurriculumSampler
from tamis.samplers.curriculum_loss import log_likelihoods
from tamis.samplers.curriculum_scorers import (
    Alignment,
    CompetenceSampler,
    Length,
    LogLikelihood,
    LossDifference,
    Rarity,
)
from tamis.samplers.curriculum_state import CurriculumFeatures, curriculum_features
from tamis.samplers.features import SampleFeatures, sample_features
from tamis.samplers.swift import SwiftPolicy, SwiftSampler
from tamis.samplers.swift_law import SwiftLaw
from tamis.samplers.weighted import WeightedSampler, effective_sample_size
from tamis.samplers.weighted_batch import BatchSelector

__all__ = [
    "Alignment",
    "BatchSelector",
    "CompetenceSampler",
    "CurriculumFeatures",
    "CurriculumPolicy",
    "CurriculumSampler",
    "Length",
    "LogLikelihood",
    "LossDifference",
    "Rarity",
    "SampleFeatures",
    "StatefulSampler",
    "SwiftLaw",
    "SwiftPolicy",
    "SwiftSampler",
    "WeightedSampler",
    "curriculum_features",
    "effective_sample_size",
    "log_likelihoods",
    "sample_features",
]
