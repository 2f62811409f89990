"""AutoField: each table stays or goes; the choice is relaxed by Gumbel-softmax and learned on validation.

Y. Wang et al., "AutoField: Automating Feature Selection in Deep Recommender Systems", WWW 2022, arXiv:2204.09078.
Logits (alpha^0, alpha^1) per field, p^1 = the second of softmax((log alpha + G) / tau) multiplies the field's rows, the
logits descend the validation loss, the K fields with the highest p^1 are kept and a model of them is trained anew.

Deviations: first order (the authors' code looks one step ahead); K is a share of the fields (``fields``), or a budget
takes its place, which counts pairs or bytes: no table larger than the budget can then stay; a table that goes leaves
its module, which returns zeros.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_range
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import check_seed
from tamis.pruners.budgeted import best_tables
from tamis.pruners.gumbel import GumbelGate, GumbelPruner
from tamis.pruners.tables import Table

__all__ = ["AutoField", "AutoFieldConfig"]


@dataclass(frozen=True, kw_only=True)
class AutoFieldConfig:
    """Settings of `AutoField`.

    Attributes:
        fields: share of the fields that stay, in (0, 1], where no budget is given; at least one field. Paper: K fields.
        lr: of Adam on the logits. Paper: 0.001.
        cooling: what tau loses in a step, down to 0.01. Paper: 5e-5.
        warm_up: share of the training before the logits move, in [0, 1). Paper: 0.
        decide_by: share of the training after which it is decided, in (warm_up, 1]. Paper: 1, and then anew.
        power: rank by p^1 x cost ** -power. Paper: 0.
        seed: of the Gumbel noise.
    """

    fields: float = 0.5
    lr: float = 1e-3
    cooling: float = 5e-5
    warm_up: float = 0.0
    decide_by: float = 1.0
    power: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("fields", self.fields, low=0, high=1, open_low=True)
        check_range("lr", self.lr, low=0, open_low=True)
        check_range("cooling", self.cooling, low=0)
        check_range("warm_up", self.warm_up, low=0, high=1, open_high=True)
        check_range("decide_by", self.decide_by, low=self.warm_up, high=1, open_low=True)
        check_range("power", self.power, low=0)
        check_seed(self.seed)


class FieldGate(GumbelGate):
    """factor = p^1, the same for every column."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2)

    def factor(self, value: Tensor) -> Tensor:
        return self.probabilities(value)[1:]


class AutoField(GumbelPruner):
    """Keeps the tables whose presence the validation loss asks for.

    A plain loop: ``pruner.step(validation_loss=lambda: criterion(model(x_val), y_val))`` after ``optimizer.step()``;
    after the training ``pruner.prune()``, then ``small = pruner.restart(new_model)``, which is trained anew.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; without a budget half of the
            fields (`AutoFieldConfig.fields`), whatever their sizes.
        config: the settings.
    """

    config_class = AutoFieldConfig
    whole_tables = True
    default_size = None

    def make_gate(self, table: Table) -> FieldGate:
        return FieldGate(table.width)

    def field_scores(self) -> list[float]:
        """p^1 of each table, without noise, in (0, 1)."""
        return [float(torch.softmax(gate.value.detach(), 0)[1]) for gate in self.factor_gates()]

    def chosen(self) -> list[Tensor]:
        scores = self.field_scores()
        if max(scores) == min(scores):
            words = "AutoField: every table has the same score, so the choice is by number only"
            warnings.warn(words, NoEffectWarning, stacklevel=6)
        if self.budget is None:
            best = sorted(range(len(scores)), key=lambda place: -scores[place])
            best = best[: max(1, round(self.config.fields * len(scores)))]
            stays = [place in best for place in range(len(scores))]
        else:
            stays = best_tables(scores, self.tables, self.budget, self.config.power)
        return [torch.full_like(gate.kept, stay) for gate, stay in zip(self.factor_gates(), stays, strict=True)]

    def notes(self) -> tuple[str, ...]:
        lines = [f"  {t.field}: {s:.3f}" for t, s in zip(self.tables, self.field_scores(), strict=True)]
        return ("p of staying:", *lines, *super().notes())
