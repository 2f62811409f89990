"""Hugging Face Trainer: its callbacks, and what `attach` does without a subclass."""

from tamis.callbacks.hf.attach import attach_epochs, attach_pruner, attach_sampler
from tamis.callbacks.hf.pruning import PruningCallback
from tamis.callbacks.hf.sampling import EpochCallback, SamplerCallback
from tamis.callbacks.hf.trajectory import TrajectoryCallback, attach_trajectory

__all__ = [
    "EpochCallback",
    "PruningCallback",
    "SamplerCallback",
    "TrajectoryCallback",
    "attach_epochs",
    "attach_pruner",
    "attach_sampler",
    "attach_trajectory",
]
