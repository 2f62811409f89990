"""Label-aware searches: vetoes on a base augmentation, and the triples of LA3."""

from tamis.search.label_aware.config import LabelAwareConfig, VetoConfig
from tamis.search.label_aware.search import carry_policy, search_label_aware

__all__ = ["LabelAwareConfig", "VetoConfig", "carry_policy", "search_label_aware"]
