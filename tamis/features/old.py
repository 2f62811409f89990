"""The two names that `FeatureTable` had in release 0.1; they go on working for a release and say what to write."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor

from tamis.core.types import MapDataset, PathOrStr
from tamis.features.table import FeatureTable

__all__ = ["CurriculumFeatures", "SampleFeatures"]


class _OldName(type):
    """Every `FeatureTable` is an instance of its old names."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, FeatureTable)

    def load(cls, path: PathOrStr, dataset: MapDataset | None = None) -> FeatureTable:
        _warn(cls.__name__, "FeatureTable.load(path)")
        return FeatureTable.load(path, dataset)


class SampleFeatures(metaclass=_OldName):
    """Deprecated: `FeatureTable` of single columns, one of them ``"gradient"``."""

    def __new__(  # type: ignore[misc]  # gives the table, not an instance
        cls, columns: Mapping[str, Tensor], gradient: Tensor, fingerprint: str = ""
    ) -> FeatureTable:
        _warn("SampleFeatures", "FeatureTable({'loss': losses, 'gradient': gradient_norms})")
        if not isinstance(columns, Mapping) or not columns:
            return FeatureTable(columns)  # says what is wrong
        return FeatureTable({**columns, "gradient": gradient}, fingerprint=fingerprint)


class CurriculumFeatures(metaclass=_OldName):
    """Deprecated: `FeatureTable` of groups of columns."""

    def __new__(  # type: ignore[misc]  # gives the table, not an instance
        cls, groups: Mapping[str, Tensor], columns: Mapping[str, Sequence[str]], fingerprint: str = ""
    ) -> FeatureTable:
        _warn("CurriculumFeatures", "FeatureTable(groups, columns)")
        return FeatureTable(groups, columns, fingerprint=fingerprint)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated: write {new}", FutureWarning, stacklevel=3)
