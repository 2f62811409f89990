"""Pruners: what of a model's input is worth keeping, learned while it trains, and the physical cut at the end."""

from typing import TYPE_CHECKING

from tamis.pruners.base import Loss, Pruner, Regularizer, Step
from tamis.pruners.budget import Budget, split_by_budget
from tamis.pruners.budgeted import BudgetedPruner
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

if TYPE_CHECKING:
    from tamis.pruners.auto_dim import AutoDim, AutoDimConfig
    from tamis.pruners.auto_field import AutoField, AutoFieldConfig
    from tamis.pruners.deep_light import DeepLight, DeepLightConfig
    from tamis.pruners.ham import HAM, HAMConfig
    from tamis.pruners.l1_gates import L1Gates, L1GatesConfig
    from tamis.pruners.lpfs import LPFS, LPFSConfig
    from tamis.pruners.mde import MDE, MDEConfig
    from tamis.pruners.opt_embed import OptEmbed, OptEmbedConfig
    from tamis.pruners.opt_fs import OptFS, OptFSConfig
    from tamis.pruners.pep import PEP, PEPConfig
    from tamis.pruners.sseds import SSEDS, SSEDSConfig

__all__ = [
    "DNIS",
    "HAM",
    "LPFS",
    "MDE",
    "PEP",
    "SSEDS",
    "AutoDim",
    "AutoDimConfig",
    "AutoField",
    "AutoFieldConfig",
    "BlockEmbedding",
    "Budget",
    "BudgetedPruner",
    "ColumnGate",
    "DNISConfig",
    "DeepLight",
    "DeepLightConfig",
    "DimReg",
    "DimRegConfig",
    "Gate",
    "HAMConfig",
    "L1Gates",
    "L1GatesConfig",
    "LPFSConfig",
    "Loss",
    "MDEConfig",
    "NarrowEmbedding",
    "OptEmbed",
    "OptEmbedConfig",
    "OptFS",
    "OptFSConfig",
    "PEPConfig",
    "Part",
    "Pruner",
    "PruningPlan",
    "PruningReport",
    "QuantizedEmbedding",
    "QuantizedEmbeddingBag",
    "Regularizer",
    "SSEDSConfig",
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

#: Pruners of other papers, by module; read on first use, so that `import tamis` stays quick.
_LATE = {
    "AutoDim": "auto_dim",
    "AutoDimConfig": "auto_dim",
    "AutoField": "auto_field",
    "AutoFieldConfig": "auto_field",
    "DeepLight": "deep_light",
    "DeepLightConfig": "deep_light",
    "HAM": "ham",
    "HAMConfig": "ham",
    "L1Gates": "l1_gates",
    "L1GatesConfig": "l1_gates",
    "LPFS": "lpfs",
    "LPFSConfig": "lpfs",
    "MDE": "mde",
    "MDEConfig": "mde",
    "OptEmbed": "opt_embed",
    "OptEmbedConfig": "opt_embed",
    "OptFS": "opt_fs",
    "OptFSConfig": "opt_fs",
    "PEP": "pep",
    "PEPConfig": "pep",
    "SSEDS": "sseds",
    "SSEDSConfig": "sseds",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'tamis.pruners' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tamis.pruners.{_LATE[name]}"), name)
