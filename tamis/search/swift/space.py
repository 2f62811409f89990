"""The cube that Swift Sampler searches: its points are the laws of the paper's 10 parameters, without the idle ones."""

from __future__ import annotations

import numpy as np

from tamis.samplers.swift.law import SwiftLaw

__all__ = ["dimensions", "law_of"]

_KNOTS, _SLOPES = 3, 4


def dimensions(features: int) -> int:
    """How many parameters are searched for that many features: 8 for the paper's 2."""
    return _KNOTS + _SLOPES + features - 1


def law_of(point: np.ndarray, *, transform: str = "cgf") -> SwiftLaw:
    """The law at a point of the unit cube [D]: D = 7 + number of features - 1.

    Every law of the paper's space, up to scale of c and of v, sign of c (with H reversed) and order of the knots, is
    the law of some point.

    Args:
        point: 3 knots (any order), 4 differences between neighbouring heights (0.5 is none, 0 and 1 are -1 and +1;
            the highest is put at 1, the others cut off at 0), then one angle for each further feature (0.5 leaves
            it out, 0 and 1 leave out the ones before it).
        transform: as `SwiftLaw`.
    """
    knots, slopes, angles = np.split(np.asarray(point, dtype=np.float64), [_KNOTS, _KNOTS + _SLOPES])
    heights = np.concatenate([[0.0], np.cumsum(2 * slopes - 1)])
    heights = np.clip(heights - heights.max() + 1, 0.0, 1.0)
    coefficients = np.ones(1)
    for angle in np.pi * (angles - 0.5):
        coefficients = np.append(coefficients * np.cos(angle), np.sin(angle))
    return SwiftLaw(
        tuple(np.clip(coefficients, -1, 1).tolist()), tuple(np.sort(knots).tolist()), tuple(heights.tolist()), transform
    )
