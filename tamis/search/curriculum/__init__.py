"""The search of the reinforced curriculum."""

from tamis.search.curriculum.actor_critic import AgentConfig
from tamis.search.curriculum.config import CurriculumConfig, UpdateConfig
from tamis.search.curriculum.search import search_curriculum

__all__ = ["AgentConfig", "CurriculumConfig", "UpdateConfig", "search_curriculum"]
