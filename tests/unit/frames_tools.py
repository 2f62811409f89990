"""Planted clips and a quick map: what the tests of frame search share."""

import numpy as np

from tamis.core.rng import numpy_generator
from tamis.search.frames.training import MapConfig

QUICK = MapConfig(width=16, epochs=10)


def planted(count=48, m=20, seed=0):
    """Clips whose class shows only in frames [start, start + 4), marked by feature 0; the rest is noise."""
    rng = numpy_generator(seed, 77)
    labels = np.arange(count) % 3
    clips, starts = [], rng.integers(0, m - 4, size=count)
    for label, start in zip(labels, starts, strict=True):
        clip = 0.5 * rng.standard_normal((m, 6))
        clip[start : start + 4, 0] += 3.0
        clip[start : start + 4, 1 + label] += 3.0
        clips.append(clip)
    return clips, labels, starts
