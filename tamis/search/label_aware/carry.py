"""A policy for classes that were not searched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tamis.optimizers.mrmr import select
from tamis.search.label_aware.config import SPACE
from tamis.search.label_aware.triples import known_rewards, triples_policy
from tamis.transforms.label_aware.policy import LabelAwarePolicy

__all__ = ["carry_policy"]


def carry_policy(
    policy: LabelAwarePolicy,
    prototypes: Tensor,
    new_prototypes: Tensor,
    classes: Sequence[str],
    *,
    triples: int = 100,
    alpha: float = 2.5,
) -> LabelAwarePolicy:
    """A policy for classes that were not searched: their rewards are those of the classes that look like them.

    A new class' expected rewards are the known ones', weighted by exp(-d^2 / 2 h^2): d is the distance of the
    prototypes (mean features of a class in one model's feature space), h the median distance of a known class to its
    nearest neighbour.

    Args:
        policy: searched.
        prototypes: of its classes, [L, D].
        new_prototypes: of the others, [K, D].
        classes: their names.
        triples: as `search_label_aware`.
        alpha: as `search_label_aware`.
    """
    expected = known_rewards(policy)
    known, new = (np.asarray(value, dtype=np.float64) for value in (prototypes.cpu(), new_prototypes.cpu()))
    if known.ndim != 2 or len(known) != len(policy.classes) or new.shape != (len(classes), known.shape[1]):
        raise ValueError(
            f"prototypes of {list(known.shape)} and {list(new.shape)}: must be [{len(policy.classes)}, D] and "
            f"[{len(classes)}, D]"
        )
    among = np.linalg.norm(known[:, None] - known[None], axis=-1)
    width = np.median(np.where(np.eye(len(known), dtype=bool), np.inf, among).min(1)) if len(known) > 1 else 1.0
    apart = np.linalg.norm(new[:, None] - known[None], axis=-1) / max(float(width), 1e-12)
    weights = np.exp(-0.5 * (apart**2 - (apart**2).min(1, keepdims=True)))
    carried = weights / weights.sum(1, keepdims=True) @ expected
    return triples_policy(tuple(classes), carried, select(carried, SPACE, triples, alpha=alpha), None)
