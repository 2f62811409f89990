"""Pruners: what of a model's input is worth keeping, learned while it trains, and the physical cut at the end."""

from tamis.pruners.dimreg.pruner import DimReg, DimRegConfig
from tamis.pruners.surgery.cut import cut
from tamis.pruners.surgery.load import load_pruned
from tamis.pruners.surgery.narrow import NarrowEmbedding
from tamis.pruners.surgery.plan import PruningPlan

__all__ = ["DimReg", "DimRegConfig", "NarrowEmbedding", "PruningPlan", "cut", "load_pruned"]
