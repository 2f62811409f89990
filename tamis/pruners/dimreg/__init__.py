"""DimReg: embedding dimensions pruned by polarised gates."""

from tamis.pruners.dimreg.config import DimRegConfig
from tamis.pruners.dimreg.pruner import DimReg

__all__ = ["DimReg", "DimRegConfig"]
