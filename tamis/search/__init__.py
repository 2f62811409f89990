"""Searches: offline routines that find a policy, journaled, resumable and spread over processes."""

from tamis.search.curriculum import UpdateConfig, search_curriculum
from tamis.search.frames import search_frames
from tamis.search.label_aware import carry_policy, search_label_aware
from tamis.search.swift import search_swift

__all__ = [
    "UpdateConfig",
    "carry_policy",
    "search_curriculum",
    "search_frames",
    "search_label_aware",
    "search_swift",
]
