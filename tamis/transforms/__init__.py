"""Transforms: what is done to a sample on its way to the model, as a saved policy says."""

from tamis.transforms.decode import VideoError, open_video
from tamis.transforms.frames import FrameSelectionCollator
from tamis.transforms.frames_encoder import PixelEncoder
from tamis.transforms.frames_policy import FramePolicy, SearchedFrames
from tamis.transforms.label_aware import LabelAwareAugment
from tamis.transforms.label_aware_data import LabelAwareDataset
from tamis.transforms.label_aware_policy import LabelAwarePolicy
from tamis.transforms.ops import OPERATIONS, apply_operations
from tamis.transforms.selectors import (
    ClipView,
    ConfidentFrames,
    FarthestFrames,
    FrameSelector,
    PairwiseFrames,
    RandomFrames,
    SceneFrames,
    SegmentFrames,
    UniformFrames,
)

__all__ = [
    "OPERATIONS",
    "ClipView",
    "ConfidentFrames",
    "FarthestFrames",
    "FramePolicy",
    "FrameSelectionCollator",
    "FrameSelector",
    "LabelAwareAugment",
    "LabelAwareDataset",
    "LabelAwarePolicy",
    "PairwiseFrames",
    "PixelEncoder",
    "RandomFrames",
    "SceneFrames",
    "SearchedFrames",
    "SegmentFrames",
    "UniformFrames",
    "VideoError",
    "apply_operations",
    "open_video",
]
