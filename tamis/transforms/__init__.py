"""Transforms: what is done to a sample on its way to the model, as a saved policy says."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "ClipView": "tamis.transforms.selectors",
    "ConfidentFrames": "tamis.transforms.selectors",
    "FarthestFrames": "tamis.transforms.selectors",
    "FramePolicy": "tamis.transforms.frames_policy",
    "FrameSelectionCollator": "tamis.transforms.frames",
    "FrameSelector": "tamis.transforms.selectors",
    "LabelAwareAugment": "tamis.transforms.label_aware",
    "LabelAwareDataset": "tamis.transforms.label_aware_data",
    "LabelAwarePolicy": "tamis.transforms.label_aware_policy",
    "OPERATIONS": "tamis.transforms.ops",
    "PairwiseFrames": "tamis.transforms.selectors",
    "PixelEncoder": "tamis.transforms.frames_encoder",
    "RandomFrames": "tamis.transforms.selectors",
    "SceneFrames": "tamis.transforms.selectors",
    "SegmentFrames": "tamis.transforms.selectors",
    "SearchedFrames": "tamis.transforms.frames_policy",
    "UniformFrames": "tamis.transforms.selectors",
    "VideoError": "tamis.transforms.decode",
    "apply_operations": "tamis.transforms.ops",
    "open_video": "tamis.transforms.decode",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tamis.transforms' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
