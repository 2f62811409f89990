"""Numbers per sample: who measures them, how they are kept, and scores made of them."""

from tamis.features.groups import CurriculumFeatures, curriculum_features
from tamis.features.losses import log_likelihoods
from tamis.features.samples import SampleFeatures, feature_columns, sample_features
from tamis.features.scores import Alignment, Length, LogLikelihood, LossDifference, Rarity

__all__ = [
    "Alignment",
    "CurriculumFeatures",
    "Length",
    "LogLikelihood",
    "LossDifference",
    "Rarity",
    "SampleFeatures",
    "curriculum_features",
    "feature_columns",
    "log_likelihoods",
    "sample_features",
]
