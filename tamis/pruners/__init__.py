"""Pruners: what of a model's input is worth keeping, learned while it trains, and the physical cut at the end.

Imported here, not on first use: ``cut`` is a function and also its module's name, and the function must win.
"""

from tamis.pruners.cut import cut
from tamis.pruners.dimreg import DimReg, DimRegConfig
from tamis.pruners.load import load_pruned
from tamis.pruners.narrow import NarrowEmbedding
from tamis.pruners.plan import PruningPlan

__all__ = ["DimReg", "DimRegConfig", "NarrowEmbedding", "PruningPlan", "cut", "load_pruned"]
