"""The search of LA3."""

from tamis.search.label_aware.config import LabelAwareConfig
from tamis.search.label_aware.search import carry_policy, search_label_aware

__all__ = ["LabelAwareConfig", "carry_policy", "search_label_aware"]
