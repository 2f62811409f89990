"""MDE: a table's width goes by a power of its rows; the model is built narrow, with a projection, before it is trained.

A. Ginart, M. Naumov, D. Mudigere, J. Yang, J. Zou, "Mixed Dimension Embeddings with Application to Memory-Efficient
Recommendation Systems", ISIT 2021, arXiv:1909.11810. d_i = lambda p_i^alpha, where p_i = 1 / n_i is the popularity of a
row of table i; a table narrower than the base width has a projection P_i to it, trained with it.

Deviations: lambda is found so that tables and projections meet the budget (the authors' code: lambda gives the smallest
table its full width, or a number of parameters); widths are rounded down, at least 1; rounding to powers of two is an
option, which the authors' code has on. The narrow table keeps the first columns of the user's own start, and P_i is
uniform with variance 1 / k, so that a row starts with the variance that the user gave it (the paper: Xavier for both).
Rows with their own frequencies (blocks of a table) are not split: `DNIS` does that.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tamis.core.checks import check_range
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import check_seed, torch_generator
from tamis.core.types import Batch, OptimizerLike
from tamis.pruners.arguments import check_config
from tamis.pruners.base import Pruner
from tamis.pruners.budget import Budget
from tamis.pruners.selection import Selection
from tamis.pruners.surgery.cut import cut
from tamis.pruners.surgery.gated import largest_change
from tamis.pruners.surgery.packing import check_stored
from tamis.pruners.surgery.plan import PruningPlan
from tamis.pruners.surgery.quantize import quantize_embeddings, refuse_trained
from tamis.pruners.surgery.report import PruningReport
from tamis.pruners.surgery.trace import run_model
from tamis.pruners.tables import Table, find_tables

__all__ = ["MDE", "MDEConfig", "mixed_dimensions"]

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class MDEConfig:
    """Settings of `MDE`.

    Attributes:
        alpha: the power of popularity, >= 0; 0 gives every table one width. Paper: 0.3 is a good first value.
        powers_of_two: round widths down to powers of two.
        project: narrow tables have a trained projection to the base width; False: zeros fill it up.
        seed: of the projections' start.
    """

    alpha: float = 0.3
    powers_of_two: bool = False
    project: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, low=0)
        check_seed(self.seed)


def mixed_dimensions(
    rows: list[int],
    widths: list[int],
    costs: list[float],
    budget: float,
    config: MDEConfig,
    extra: float = 0.0,
    asked: object = None,
) -> list[int]:
    """d_i = lambda n_i^-alpha, rounded down, in [1, width], with the largest lambda that the budget holds.

    Args:
        rows: n_i.
        widths: the base widths.
        costs: of one dimension of each table.
        budget: in the same unit.
        config: its ``alpha`` and ``powers_of_two``.
        extra: what a dimension of a table narrower than its base costs besides, per base dimension: its projection.
        asked: how the error calls the budget.

    Raises:
        ValueError: not even one dimension for each table fits.
    """

    def at(scale: float) -> list[int]:
        found = [max(1, min(w, math.floor(scale * n**-config.alpha + 1e-9))) for n, w in zip(rows, widths, strict=True)]
        return [2 ** int(math.log2(d)) if config.powers_of_two else d for d in found]

    def spent(dims: list[int]) -> float:
        return sum(d * (c + (extra * w if d < w else 0)) for d, c, w in zip(dims, costs, widths, strict=True))

    low, high = 0.0, max(w * n**config.alpha for n, w in zip(rows, widths, strict=True))
    if spent(at(low)) > budget * (1 + 1e-9):
        raise ValueError(
            f"{asked or 'budget'}: holds {budget:,.0f}, and one dimension for each table, projections included, takes "
            f"{spent(at(low)):,.0f}; give a larger budget, or a pruner that may drop whole tables"
        )
    if spent(at(high)) <= budget * (1 + 1e-9):
        return at(high)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(at(middle)) <= budget * (1 + 1e-9) else (low, middle)
    return at(low)


class MDE(Pruner):
    """Makes the model small before it is trained: there is nothing to learn and nothing to wait for.

    ``pruner = MDE(model, size=0.125)`` before the optimizer is made; `prune` at the end returns the plan. In a Trainer
    and with Accelerate as every pruner.

    Args:
        model: cut in place, at once. Tables of width 1 are left alone unless named.
        size: share of the tables' bytes to keep, projections included, in (0, 1]; without any budget 0.2.
        keep: share of all (table, dimension) pairs to keep instead, in (0, 1].
        budget_bytes: keep at most this many bytes in all tables instead.
        tables: field name -> module path, to cut only these tables; None: all of them.
        config: the settings.
        total_steps: not used; for the same call as every pruner.

    Raises:
        ValueError: a budget out of range, or smaller than a dimension for each table.
        TypeError: as `find_tables`.

    Warns:
        NoEffectWarning: the budget holds every width.
    """

    def __init__(
        self,
        model: nn.Module,
        size: float | None = None,
        *,
        keep: float | None = None,
        budget_bytes: int | None = None,
        tables: Mapping[str, str] | None = None,
        config: MDEConfig | None = None,
        total_steps: int | None = None,
    ) -> None:
        size = 0.2 if (size, keep, budget_bytes) == (None, None, None) else size
        self.budget = Budget(keep=keep, size=size, bytes=budget_bytes)
        self.config: MDEConfig = check_config(self, config, MDEConfig)
        found = find_tables(model, tables)
        self._budget_total = self.budget.costs(found)[1]  # of the whole tables, before they are cut
        dims = self._widths(found)
        if dims == [table.width for table in found]:
            warnings.warn(f"MDE: {self.budget} holds every width, so nothing is cut", NoEffectWarning, stacklevel=2)
        super().__init__(model, tables=tables, total_steps=total_steps)
        kept = {table.paths[0]: torch.arange(d) for table, d in zip(self.tables, dims, strict=True)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # that nothing is cut was said above
            self.plan: PruningPlan = cut(model, kept, project=self.config.project)
        self._start_projections(model)

    def _widths(self, tables: list[Table]) -> list[int]:
        costs, total = self.budget.costs(tables)
        size = tables[0].weight.element_size()
        extra = float(size) if self.config.project and self.budget.keep is None else 0.0
        rows, widths = [table.rows for table in tables], [table.width for table in tables]
        return mixed_dimensions(rows, widths, costs, total, self.config, extra, self.budget)

    def make_gate(self, table: Table) -> None:
        """No gate: the tables are cut already when the training begins."""

    def select(self) -> Mapping[str, Selection]:
        """Nothing is left to select."""
        return {}

    def prune(
        self,
        optimizer: OptimizerLike | None = None,
        *,
        force: bool = False,
        consumers: Mapping[str, list[str | int]] | None = None,
        example_inputs: Batch | None = None,
        project: bool = False,
        quantize: str | None = None,
    ) -> PruningPlan:
        """The plan of the cut that was made with the pruner, which cuts nothing if the budget held every width.

        Args:
            optimizer: leave it out with ``quantize``; not used otherwise.
            force: not used.
            consumers: not used.
            example_inputs: with ``quantize`` a batch; the report then has the largest change of an output by rounding.
            project: not used; see `MDEConfig`.
            quantize: as for every pruner.

        Raises:
            RuntimeError: called before.
            ValueError: ``optimizer`` was given with ``quantize``; nothing was changed.
        """
        if self.report is not None:
            raise RuntimeError("MDE.prune(): the model is cut already; make a new MDE of a new model")
        rounding = None
        if quantize is not None:
            check_stored("quantize", quantize)
            refuse_trained({table.field: table.modules for table in self.tables}, optimizer, quantize)
            before = None if example_inputs is None else run_model(self.model, example_inputs)
            self.plan = quantize_embeddings(self.model, quantize, tables=[table.paths[0] for table in self.tables])
            if before is not None and example_inputs is not None:
                rounding = largest_change(before, run_model(self.model, example_inputs))
        paths = {table.field: table.paths[0] for table in self.tables}
        self.report = PruningReport(self.plan, paths, 0.0, None, ("built narrow before the training",), rounding)
        return self.plan

    @property
    def decided(self) -> bool:
        """True: the widths stand from the beginning."""
        return True

    def budget_total(self) -> float:
        """The budget in its own unit: pairs or bytes."""
        return self._budget_total

    def restart(self, model: Model) -> Model:
        """Make a newly built ``model`` narrow in the same way, in float, with projections of the same start.

        Args:
            model: of the same architecture, never cut; not this pruner's.

        Raises:
            PolicyError: of another shape, or cut already.
        """
        replace(self.plan, stored={}).apply(model)
        self._start_projections(model)
        return model

    def _start_projections(self, model: nn.Module) -> None:
        for number, table in enumerate(self.tables):
            if self.plan.tables[table.paths[0]].form == "project":
                narrow: Any = model.get_submodule(table.paths[0])
                _start(narrow.projection, self.config.seed, number)

    def settings(self) -> dict[str, Any]:
        asked = {"keep": self.budget.keep, "size": self.budget.size, "budget_bytes": self.budget.bytes}
        return {**asked, **asdict(self.config)}


def _start(projection: Tensor, *key: int) -> None:
    """Uniform with variance 1 / k: rows keep the variance of the narrow table's entries."""
    with torch.no_grad():
        bound = math.sqrt(3 / projection.shape[1])
        drawn = torch.rand(projection.shape, generator=torch_generator(*key)) * 2 - 1
        projection.copy_(drawn.to(projection) * bound)
