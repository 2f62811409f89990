"""Samplers: a global order that is a pure function of (seed, epoch, state), for any trainer."""

from tamis.features.losses import log_likelihoods
from tamis.features.old import CurriculumFeatures, SampleFeatures
from tamis.features.samples import sample_features
from tamis.features.scores import (
    RHO,
    Alignment,
    Denoising,
    Length,
    LogLikelihood,
    LossDifference,
    Rarity,
)
from tamis.features.table import FeatureTable
from tamis.features.text import curriculum_features
from tamis.samplers.base import StatefulSampler
from tamis.samplers.competence import CompetenceSampler
from tamis.samplers.curriculum.sampler import CurriculumPolicy, CurriculumSampler
from tamis.samplers.mixture.sampler import MixtureSampler
from tamis.samplers.plain import BalancedSampler, TemperatureSampler, TrimSampler
from tamis.samplers.swift.law import SwiftLaw
from tamis.samplers.swift.sampler import SwiftPolicy, SwiftSampler
from tamis.samplers.weighted.batch import BatchSelector
from tamis.samplers.weighted.sampler import WeightedSampler, effective_sample_size

__all__ = [
    "RHO",
    "Alignment",
    "BalancedSampler",
    "BatchSelector",
    "CompetenceSampler",
    "CurriculumFeatures",
    "CurriculumPolicy",
    "CurriculumSampler",
    "Denoising",
    "FeatureTable",
    "Length",
    "LogLikelihood",
    "LossDifference",
    "MixtureSampler",
    "Rarity",
    "SampleFeatures",
    "StatefulSampler",
    "SwiftLaw",
    "SwiftPolicy",
    "SwiftSampler",
    "TemperatureSampler",
    "TrimSampler",
    "WeightedSampler",
    "curriculum_features",
    "effective_sample_size",
    "log_likelihoods",
    "sample_features",
]
