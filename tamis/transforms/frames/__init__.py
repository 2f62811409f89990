"""Frame selection: decoding, encoding, selectors, the searched policy and the collator."""

from tamis.transforms.frames.collator import FrameSelectionCollator
from tamis.transforms.frames.encoder import PixelEncoder
from tamis.transforms.frames.policy import FramePolicy, SearchedFrames
from tamis.transforms.frames.video import VideoError, open_video

__all__ = ["FramePolicy", "FrameSelectionCollator", "PixelEncoder", "SearchedFrames", "VideoError", "open_video"]
