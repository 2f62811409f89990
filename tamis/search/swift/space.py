"""The cube that Swift Sampler searches: its points are the laws of the paper's 10 parameters, without the idle ones."""

from __future__ import annotations

import numpy as np

from tamis.samplers.plain import kept_lowest
from tamis.samplers.swift.law import SwiftLaw, aggregate
from tamis.samplers.swift.sampler import FeatureTables

__all__ = ["SHARES", "dimensions", "first_points", "law_of", "point_of", "uniform_point"]

_KNOTS, _SLOPES = 3, 4

SHARES = (0.85, 0.7, 0.5)  # that the first trimming laws keep


def dimensions(features: int, *, balance: bool = False) -> int:
    """How many parameters are searched for that many features: 8 for the paper's 2, one more to balance classes.

    Args:
        features: number of columns of the law.
        balance: the last coordinate is the exponent that balances classes.
    """
    return _KNOTS + _SLOPES + features - 1 + balance


def law_of(point: np.ndarray, *, transform: str = "cgf", balance: bool = False) -> SwiftLaw:
    """The law at a point of the unit cube [D]: D = 7 + number of features - 1, and one more with ``balance``.

    Every law of the paper's space, up to scale of c and of v, sign of c (with H reversed) and order of the knots, is
    the law of some point.

    Args:
        point: 3 knots (any order), 4 differences between neighbouring heights (0.5 is none, 0 and 1 are -1 and +1;
            the highest is put at 1, the others cut off at 0), then one angle for each further feature (0.5 leaves
            it out, 0 and 1 leave out the ones before it), then the exponent that balances classes.
        transform: as `SwiftLaw`.
        balance: the last coordinate is `SwiftLaw.balance`.
    """
    values = np.asarray(point, dtype=np.float64)
    exponent = float(np.clip(values[-1], 0, 1)) if balance else 0.0
    knots, slopes, angles = np.split(values[:-1] if balance else values, [_KNOTS, _KNOTS + _SLOPES])
    heights = np.concatenate([[0.0], np.cumsum(2 * slopes - 1)])
    heights = np.clip(heights - heights.max() + 1, 0.0, 1.0)
    coefficients = np.ones(1)
    for angle in np.pi * (angles - 0.5):
        coefficients = np.append(coefficients * np.cos(angle), np.sin(angle))
    return SwiftLaw(
        tuple(np.clip(coefficients, -1, 1).tolist()),
        tuple(np.sort(knots).tolist()),
        tuple(heights.tolist()),
        transform,
        exponent,
    )


def point_of(law: SwiftLaw, *, balance: bool = False) -> np.ndarray:
    """The point whose law is ``law``, up to scale: the inverse of `law_of`.

    Args:
        law: of 4 segments.
        balance: as `law_of`; without it the law's own balance is lost.

    Raises:
        ValueError: another number of segments, or only zeros.
    """
    if len(law.knots) != _KNOTS:
        raise ValueError(f"knots={law.knots}: must be {_KNOTS}, which is what is searched")
    c, knots, heights = np.array(law.coefficients), np.array(law.knots), np.array(law.heights)
    if not c.any() or not heights.any():
        raise ValueError("law: its coefficients or its heights are all 0")
    if c[0] < 0:  # -c ranks the samples the other way round
        c, knots, heights = -c, 1 - knots[::-1], heights[::-1]
    heights = heights / heights.max()
    angles = [np.arctan2(c[k], np.linalg.norm(c[:k])) for k in range(1, len(c))]
    point = np.concatenate([knots, (np.diff(heights) + 1) / 2, np.array(angles) / np.pi + 0.5])
    return np.append(point, law.balance) if balance else point


def uniform_point(features: int, *, balance: bool = False) -> np.ndarray:
    """The middle of the cube, which balances nothing: the uniform law.

    Args:
        features: number of columns of the law.
        balance: the last coordinate is the exponent that balances classes.
    """
    point = np.full(dimensions(features, balance=balance), 0.5)
    if balance:
        point[-1] = 0.0
    return point


def first_points(
    tables: FeatureTables, *, transform: str, plain: bool, previous: SwiftLaw | None
) -> dict[str, np.ndarray]:
    """The laws that are tried first, by name: uniform; trimming by the first feature, balanced, both; the previous one.

    Args:
        tables: of the training data; classes are balanced if it has ``class_frequency``.
        transform: as `SwiftLaw`.
        plain: False leaves out all but the uniform and the previous law.
        previous: a law that was found before, or None.

    Raises:
        ValueError: ``previous`` has another number of features or of segments.
    """
    balance = tables.frequency is not None
    uniform = uniform_point(len(tables.names), balance=balance)
    points = {"uniform": uniform}
    if plain:
        points |= {f"trim {share:g}": _trim(tables, share, transform, uniform) for share in SHARES}
        if balance:
            only = {"balanced": uniform} | {f"balanced {name}": p for name, p in points.items() if name != "uniform"}
            points |= {name: np.append(point[:-1], 1.0) for name, point in only.items()}
    if previous is not None:
        if len(previous.coefficients) != len(tables.names):
            raise ValueError(
                f"previous: a law over {len(previous.coefficients)} features, but there are {len(tables.names)} "
                f"({', '.join(tables.names)})"
            )
        points["previous"] = point_of(previous, balance=balance)
    return points


def _trim(tables: FeatureTables, share: float, transform: str, uniform: np.ndarray) -> np.ndarray:
    """The law that is 1 on the lowest ``share`` of the first feature and 0 above, ties apart."""
    law = law_of(uniform, transform=transform, balance=tables.frequency is not None)
    t = np.sort(tables.transform(law)(aggregate(tables.cdfs, law.coefficients)))
    count = int(kept_lowest(tables.cdfs[0], share).sum())
    above = t[t > t[count - 1]]
    knot = float(t[count - 1] + above[0]) / 2 if len(above) else 1.0
    point = uniform.copy()
    point[:_KNOTS] = knot, knot, 1.0
    point[_KNOTS : _KNOTS + _SLOPES] = 0.5, 0.0, 0.5, 0.5
    return point
