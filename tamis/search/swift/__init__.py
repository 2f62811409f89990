"""Swift Sampler."""

from tamis.search.swift.config import SwiftConfig
from tamis.search.swift.search import search_swift
from tamis.search.swift.space import dimensions, law_of
from tamis.search.swift.trim import TrimConfig, search_trim

__all__ = ["SwiftConfig", "TrimConfig", "dimensions", "law_of", "search_swift", "search_trim"]
