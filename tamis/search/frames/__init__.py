"""Search-Map-Search."""

from tamis.optimizers.guided_local_search import GLSConfig
from tamis.search.frames.config import FramesConfig
from tamis.search.frames.encoders import compare_encoders
from tamis.search.frames.search import search_frames
from tamis.search.frames.training import MapConfig

__all__ = ["FramesConfig", "GLSConfig", "MapConfig", "compare_encoders", "search_frames"]
