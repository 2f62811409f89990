"""The search of the reinforced curriculum."""

from tamis.search.curriculum.actor_critic import AgentConfig
from tamis.search.curriculum.config import CurriculumConfig, UpdateConfig
from tamis.search.curriculum.search import search_curriculum
from tamis.search.curriculum.tuned import loss_changes

__all__ = ["AgentConfig", "CurriculumConfig", "UpdateConfig", "loss_changes", "search_curriculum"]
