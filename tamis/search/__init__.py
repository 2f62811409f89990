"""Searches: offline routines that find a policy, journaled, resumable and spread over processes."""

from tamis.optimizers.guided_local_search import GLSConfig
from tamis.optimizers.predictor import PredictorConfig
from tamis.search.curriculum import AgentConfig, CurriculumConfig, UpdateConfig, loss_changes, search_curriculum
from tamis.search.frames import FramesConfig, MapConfig, compare_encoders, search_frames
from tamis.search.journal import Journal
from tamis.search.label_aware import LabelAwareConfig, VetoConfig, carry_policy, search_label_aware
from tamis.search.run import SearchConfig, SearchRun, adjustable
from tamis.search.swift import SwiftConfig, TrimConfig, search_swift, search_trim

__all__ = [
    "AgentConfig",
    "CurriculumConfig",
    "FramesConfig",
    "GLSConfig",
    "Journal",
    "LabelAwareConfig",
    "MapConfig",
    "PredictorConfig",
    "SearchConfig",
    "SearchRun",
    "SwiftConfig",
    "TrimConfig",
    "UpdateConfig",
    "VetoConfig",
    "adjustable",
    "carry_policy",
    "compare_encoders",
    "loss_changes",
    "search_curriculum",
    "search_frames",
    "search_label_aware",
    "search_swift",
    "search_trim",
]
