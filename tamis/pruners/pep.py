"""PEP: every embedding value is shrunk by a learned threshold; what reaches zero is pruned.

S. Liu, C. Gao, Y. Chen, D. Jin, Y. Li, "Learnable Embedding Sizes for Recommender Systems", ICLR 2021,
arXiv:2101.07577. V^ = S(V, s) = sign(V) relu(|V| - g(s)), g = sigmoid, s learned with the weights by the training loss;
as soon as as few values survive as the budget asks for, the mask of the survivors is taken, and a model that starts
from the *first* weights under this mask is trained (a lottery ticket).

Slips kept out and facts of the authors' code: s has its own weight decay, as every parameter has there. Without it s
hardly moves: at s = -15 the slope g' is 3e-7, and it is the decay, towards g(0) = 0.5, that raises the threshold. The
mask is |V^| > 0.

Deviations: by default a column of a table has one threshold (the paper's best has one per value); the threshold acts
on looked-up rows, not on the whole table at each step; survivors are counted every fiftieth of the training, and s
stands still once they fit; if too many survive at the decision, the largest |V^| are taken. Single values need dense
gradients and an index, which the budget counts; a table that is smaller without it keeps whole columns.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from tamis.core.checks import check_choice, check_range
from tamis.core.errors import NoEffectWarning
from tamis.core.types import JsonState
from tamis.pruners.base import Step
from tamis.pruners.budgeted import gate_gradients
from tamis.pruners.factors import LearnedGate, adam
from tamis.pruners.gates import gate_of
from tamis.pruners.tables import Table
from tamis.pruners.values import Source, ValuePruner

__all__ = ["PEP", "PEPConfig", "soft_threshold"]

CHECKS = 50  # how often in a training the survivors are counted


@dataclass(frozen=True, kw_only=True)
class PEPConfig:
    """Settings of `PEP`.

    Attributes:
        threshold: what has an s of its own: ``table``, ``column``, ``row`` or ``value``. Paper: all are tried, the last
            is best there; it costs three more numbers per value while training, and a pass over them in each step.
        start: s at the start. Paper: -15 and the like.
        lr: of Adam on s. Paper: that of the weights.
        decay: L2 on s, in its gradient, >= 0.
        decide_by: share of the training after which it is decided, in (0, 1]. Paper: 1, and then again from the start.
    """

    threshold: str = "column"
    start: float = -15.0
    lr: float = 0.05
    decay: float = 1e-5
    decide_by: float = 1.0

    def __post_init__(self) -> None:
        check_choice("threshold", self.threshold, ("table", "column", "row", "value"))
        check_range("start", self.start)
        check_range("lr", self.lr, low=0, open_low=True)
        check_range("decay", self.decay, low=0)
        check_range("decide_by", self.decide_by, low=0, high=1, open_low=True)


def soft_threshold(values: Tensor, s: Tensor) -> Tensor:
    """sign(V) relu(|V| - sigmoid(s)).

    Args:
        values: V.
        s: broadcastable to it.
    """
    return torch.sign(values) * torch.relu(values.abs() - torch.sigmoid(s).to(values.dtype))


class ThresholdGate(LearnedGate):
    """Rows after `soft_threshold`, times what was decided.

    Args:
        rows: n.
        width: d.
        config: what has an s of its own, and its start.

    Attributes:
        kept: bool [n, d].
    """

    per_row = True
    kept: Tensor

    def __init__(self, rows: int, width: int, config: PEPConfig) -> None:
        shape = {"table": (1,), "column": (width,), "row": (rows, 1), "value": (rows, width)}[config.threshold]
        super().__init__(torch.full(shape, config.start))
        self.by_row, self.holding = config.threshold in ("row", "value"), False
        self.register_buffer("kept", torch.ones(rows, width, dtype=torch.bool))

    def forward(self, rows: Tensor, ids: Tensor) -> Tensor:
        s = self.value if self.learning else self.value.detach()
        shrunk = soft_threshold(rows, s[ids] if self.by_row else s)
        return shrunk * self.kept[ids] if self.holding else shrunk

    def shrunk(self, weight: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """S of the rows ``start`` to ``stop`` of ``weight`` [n, d]."""
        s = self.value.detach()
        return soft_threshold(weight.detach()[start:stop], s[start:stop] if self.by_row else s)

    def fold(self, weight: Tensor) -> None:
        weight.copy_(self.shrunk(weight) * self.kept)


class PEP(ValuePruner):
    """Learns a threshold below which embedding values are zero, and keeps the values above it.

    A plain loop: ``start = copy.deepcopy(model)`` first; ``pruner.step()`` after ``optimizer.step()``; after the
    training ``pruner.prune()``, then ``small = pruner.restart(start)``, which is trained again.

    Args:
        model, size, keep, budget_bytes, tables, total_steps: as `BudgetedPruner`; ``keep`` is a share of all values;
            without a budget what the thresholds leave is kept.
        config: the settings.

    Raises:
        ValueError: a table with sparse gradients, or a budget smaller than its index.

    Warns:
        NoEffectWarning: the thresholds have pruned nothing.
    """

    config_class = PEPConfig
    default_size = None
    again = "rewind"

    _settled = False  # as few values survive as the budget holds

    def prepare(self) -> None:
        self.refuse_sparse()

    def make_gate(self, table: Table) -> ThresholdGate:
        return ThresholdGate(table.rows, table.width, self.config)

    def thresholds(self) -> list[ThresholdGate]:
        """The gates, in the order of ``tables``."""
        return [gate for table in self.tables if isinstance(gate := gate_of(table), ThresholdGate)]

    def wake(self) -> None:
        for gate in self.thresholds():
            gate.learning, gate.holding = not self._decided, self._decided

    def learn(self, step: Step) -> None:
        """A step of Adam on s with its decay; now and then a count of the survivors.

        Raises:
            ValueError: ``total_steps`` is not known.
        """
        if self._settled:
            return
        c, gates = self.config, self.thresholds()
        grads = [g + c.decay * gate.value.detach() for g, gate in zip(gate_gradients(self, step), gates, strict=True)]
        self._moved += 1
        adam(gates, grads, self._moved, c.lr)
        if self.budget is not None and step.number % max(1, step.steps_in_all // CHECKS) == 0:
            self._settled = self.survivors() <= self.budget_total()

    def survivors(self) -> int:
        """How many values are not zero after the thresholds."""
        return sum(
            int((source.read(start, start + 2**16) != 0).sum())
            for source in self.sources()
            for start in range(0, source.rows, 2**16)
        )

    def sources(self) -> list[Source]:
        return [
            Source(t.rows, t.width, lambda start, stop, t=t, g=g: g.shrunk(t.weight, start, stop))  # type: ignore[misc]
            for t, g in zip(self.tables, self.thresholds(), strict=True)
        ]

    def decide(self) -> None:
        if self.survivors() == sum(table.rows * table.width for table in self.tables):
            words = "PEP: the thresholds have pruned nothing"
            cure = "the budget goes by size alone" if self.budget else "nothing will be cut"
            cause = "give it more steps, a larger lr, or a decay above 0"
            warnings.warn(f"{words}, so {cure}; {cause}", NoEffectWarning, stacklevel=6)
        super().decide()

    def logs(self) -> dict[str, float]:
        flat = torch.cat([torch.sigmoid(gate.value.detach()).reshape(-1).cpu() for gate in self.thresholds()])
        return {"tamis/threshold": float(flat.mean())}

    def state(self) -> JsonState:
        return {**super().state(), "settled": self._settled}

    def restore(self, state: JsonState) -> None:
        self._settled = bool(state["settled"])
        super().restore(state)
