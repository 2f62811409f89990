"""The algorithms that propose trials, ignorant of what is searched for."""

from tamis.search.optimizers.actor_critic import AgentConfig, train_agent
from tamis.search.optimizers.bayesian import propose
from tamis.search.optimizers.guided_local_search import guided_local_search
from tamis.search.optimizers.mrmr import multisets, select
from tamis.search.optimizers.predictor import Predictor, PredictorConfig

__all__ = [
    "AgentConfig",
    "Predictor",
    "PredictorConfig",
    "guided_local_search",
    "multisets",
    "propose",
    "select",
    "train_agent",
]
