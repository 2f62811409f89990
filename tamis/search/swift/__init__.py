"""Swift Sampler."""

from tamis.search.swift.config import SwiftConfig
from tamis.search.swift.search import search_swift
from tamis.search.swift.space import dimensions, law_of

__all__ = ["SwiftConfig", "dimensions", "law_of", "search_swift"]
