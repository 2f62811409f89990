"""The algorithms that propose trials or rank candidates, ignorant of what is searched for."""

from tamis.optimizers.bayesian import propose
from tamis.optimizers.guided_local_search import GLSConfig, guided_local_search
from tamis.optimizers.mrmr import multisets, select
from tamis.optimizers.predictor import Predictor, PredictorConfig

__all__ = [
    "GLSConfig",
    "Predictor",
    "PredictorConfig",
    "guided_local_search",
    "multisets",
    "propose",
    "select",
]
