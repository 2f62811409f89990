"""Numbers per sample: who measures them, how they are kept, and scores made of them."""

from typing import TYPE_CHECKING

from tamis.features.classes import class_frequency, rank_in_class
from tamis.features.losses import log_likelihoods
from tamis.features.old import CurriculumFeatures, SampleFeatures
from tamis.features.samples import feature_columns, sample_features
from tamis.features.scores import RHO, Alignment, Denoising, Length, LogLikelihood, LossDifference, Rarity
from tamis.features.table import FeatureTable
from tamis.features.taggers import nltk_tagger, spacy_tagger
from tamis.features.text import Tagger, curriculum_features

if TYPE_CHECKING:
    from tamis.features.consensus import consensus_loss
    from tamis.features.trajectory import LossTrajectory

__all__ = [
    "RHO",
    "Alignment",
    "CurriculumFeatures",
    "Denoising",
    "FeatureTable",
    "Length",
    "LogLikelihood",
    "LossDifference",
    "LossTrajectory",
    "Rarity",
    "SampleFeatures",
    "Tagger",
    "class_frequency",
    "consensus_loss",
    "curriculum_features",
    "feature_columns",
    "log_likelihoods",
    "nltk_tagger",
    "rank_in_class",
    "sample_features",
    "spacy_tagger",
]

_LATE = {"consensus_loss": "consensus", "LossTrajectory": "trajectory"}  # on first use: `import tamis` stays quick


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'tamis.features' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tamis.features.{_LATE[name]}"), name)
