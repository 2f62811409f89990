"""Transforms: what is done to a sample on its way to the model, as a saved policy says."""

from tamis.transforms.frames.backbones import HFEncoder, TimmEncoder
from tamis.transforms.frames.collator import FrameSelectionCollator
from tamis.transforms.frames.encoder import MotionEncoder, PixelEncoder
from tamis.transforms.frames.policy import FramePolicy, SearchedFrames
from tamis.transforms.frames.selectors import (
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
from tamis.transforms.frames.video import VideoError, open_video
from tamis.transforms.images import OPERATIONS, add_operation, apply_operations, make_menu
from tamis.transforms.label_aware.augment import LabelAwareAugment
from tamis.transforms.label_aware.data import LabelAwareDataset
from tamis.transforms.label_aware.menu_policy import MenuPolicy
from tamis.transforms.label_aware.policy import LabelAwarePolicy

__all__ = [
    "OPERATIONS",
    "ClipView",
    "ConfidentFrames",
    "FarthestFrames",
    "FramePolicy",
    "FrameSelectionCollator",
    "FrameSelector",
    "HFEncoder",
    "LabelAwareAugment",
    "LabelAwareDataset",
    "LabelAwarePolicy",
    "MenuPolicy",
    "MotionEncoder",
    "PairwiseFrames",
    "PixelEncoder",
    "RandomFrames",
    "SceneFrames",
    "SearchedFrames",
    "SegmentFrames",
    "TimmEncoder",
    "UniformFrames",
    "VideoError",
    "add_operation",
    "apply_operations",
    "make_menu",
    "open_video",
]
