"""Searches: offline routines that find a policy, journaled, resumable and spread over processes."""

from tamis.optimizers.guided_local_search import GLSConfig
from tamis.optimizers.predictor import PredictorConfig
from tamis.search.curriculum.actor_critic import AgentConfig
from tamis.search.curriculum.rounds import UpdateConfig
from tamis.search.curriculum.search import search_curriculum
from tamis.search.frames.search import search_frames
from tamis.search.frames.training import MapConfig
from tamis.search.label_aware.search import carry_policy, search_label_aware
from tamis.search.swift import search_swift

__all__ = [
    "AgentConfig",
    "GLSConfig",
    "MapConfig",
    "PredictorConfig",
    "UpdateConfig",
    "carry_policy",
    "search_curriculum",
    "search_frames",
    "search_label_aware",
    "search_swift",
]
