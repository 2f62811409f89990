"""Reinforced curriculum: the agent's network, its policy and its sampler."""

from tamis.samplers.curriculum.sampler import CurriculumPolicy, CurriculumSampler

__all__ = ["CurriculumPolicy", "CurriculumSampler"]
