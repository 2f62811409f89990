"""Pruners: what of a model's input is worth keeping, learned while it trains, and the physical cut at the end."""

from tamis.pruners.base import Loss, Pruner, Regularizer, Step
from tamis.pruners.budget import Budget, split_by_budget
from tamis.pruners.dimreg import DimReg, DimRegConfig, ThesisConfig
from tamis.pruners.dnis import DNIS, DNISConfig
from tamis.pruners.gates import ColumnGate, Gate
from tamis.pruners.selection import Part, Selection
from tamis.pruners.surgery.blocks import BlockEmbedding, ValueEmbedding
from tamis.pruners.surgery.cut import cut
from tamis.pruners.surgery.load import load_pruned
from tamis.pruners.surgery.narrow import NarrowEmbedding
from tamis.pruners.surgery.plan import PruningPlan
from tamis.pruners.surgery.quantize import quantize_embeddings
from tamis.pruners.surgery.quantized import QuantizedEmbedding, QuantizedEmbeddingBag
from tamis.pruners.surgery.report import PruningReport
from tamis.pruners.tables import Table, find_tables

__all__ = [
    "DNIS",
    "BlockEmbedding",
    "Budget",
    "ColumnGate",
    "DNISConfig",
    "DimReg",
    "DimRegConfig",
    "Gate",
    "Loss",
    "NarrowEmbedding",
    "Part",
    "Pruner",
    "PruningPlan",
    "PruningReport",
    "QuantizedEmbedding",
    "QuantizedEmbeddingBag",
    "Regularizer",
    "Selection",
    "Step",
    "Table",
    "ThesisConfig",
    "ValueEmbedding",
    "cut",
    "find_tables",
    "load_pruned",
    "quantize_embeddings",
    "split_by_budget",
]
