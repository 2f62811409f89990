"""Label-aware augmentation: the policy, the transform and its adapters for data sets."""

from tamis.transforms.label_aware.augment import LabelAwareAugment
from tamis.transforms.label_aware.data import LabelAwareDataset
from tamis.transforms.label_aware.menu_policy import MenuPolicy
from tamis.transforms.label_aware.policy import LabelAwarePolicy

__all__ = ["LabelAwareAugment", "LabelAwareDataset", "LabelAwarePolicy", "MenuPolicy"]
