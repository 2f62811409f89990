"""The curriculum samplers keep every promise of a tamis sampler, in the three trainers."""

import torch

from tamis.core.rng import torch_generator
from tamis.samplers import CompetenceSampler, CurriculumSampler
from tamis.testing import SamplerContract

SCORES = torch.randn(24, generator=torch_generator(5))


def make(seed=3):
    return CurriculumSampler(SCORES, pool=3, num_samples=24, no_repeat=2, seed=seed)


def make_competence(seed=3):
    return CompetenceSampler(SCORES, total=40, initial=0.3, seed=seed)


class TestCurriculumSampler(SamplerContract):
    factory = "tests.contract.test_curriculum_contract:make"


class TestCompetenceSampler(SamplerContract):
    factory = "tests.contract.test_curriculum_contract:make_competence"
    settings = ((0, 1),)
