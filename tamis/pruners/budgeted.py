"""What the pruners of other papers share: a budget in three forms, one decision, and training again after the cut."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from tamis.core.distributed import all_mean_
from tamis.core.errors import NoEffectWarning, NotPolarisedError
from tamis.core.types import JsonState
from tamis.pruners.arguments import check_config
from tamis.pruners.base import Loss, Pruner, Step
from tamis.pruners.budget import Budget, split_by_budget
from tamis.pruners.gates import gate_of
from tamis.pruners.surgery.narrow import used_elsewhere
from tamis.pruners.tables import Table

__all__ = ["BudgetedPruner", "best_columns", "best_tables", "gate_gradients"]

Model = TypeVar("Model", bound=nn.Module)
_AGAIN = {
    "fresh": "trains again from new weights: small = pruner.restart(a newly built model)",
    "rewind": "trains again from the weights that it began with: small = pruner.restart(the model as it was), a "
    "copy.deepcopy(model) from before the pruner was made",
}


class BudgetedPruner(Pruner):
    """A `Pruner` with DNIS' budget arguments, which decides once what remains and holds the rest at zero.

    A subclass says what it learns (`learn`, or `on_validation`) and what it would keep (`decide`). With a config whose
    ``decide_by`` is below 1 the decision falls there and the rest of the training adapts to it; at 1 it falls at the
    cut, and a method that retrains then begins anew: see `restart`.

    Args:
        model: not wrapped for data-parallel training yet. Tables of width 1 are left alone unless named.
        size: share of the tables' bytes to keep, in (0, 1]; what says where rows or values stand is part of it.
        keep: share of all (table, dimension) pairs to keep instead, in (0, 1].
        budget_bytes: keep at most this many bytes in all tables instead.
        tables: field name -> module path, to gate only these tables; None: all of them.
        config: the settings, a frozen dataclass of the method.
        total_steps: how many optimizer steps the training will have; a trainer's callback calls `begin` instead.

    Raises:
        TypeError: the settings of another method, or as `Pruner`.
        ValueError: a budget out of range, too small for its index, or more than one given; or as `Pruner`.

    Warns:
        NoEffectWarning: the budget holds everything.
    """

    config_class: ClassVar[type[Any]]
    default_size: ClassVar[float | None] = 0.2  # None: without a budget the method finds its own
    penalised: bool = False  # `penalty` is more than zero, and a plain loop must add it
    again: ClassVar[Literal["no", "fresh", "rewind"]] = "no"  # `retrain` of a decision at the cut

    def __init__(
        self,
        model: nn.Module,
        size: float | None = None,
        *,
        keep: float | None = None,
        budget_bytes: int | None = None,
        tables: Mapping[str, str] | None = None,
        config: Any = None,
        total_steps: int | None = None,
    ) -> None:
        size = self.default_size if (size, keep, budget_bytes) == (None, None, None) else size
        given = (size, keep, budget_bytes) != (None, None, None)
        self.budget = Budget(keep=keep, size=size, bytes=budget_bytes) if given else None
        self.config = check_config(self, config, self.config_class)
        self.retrain = "no" if self.config.decide_by < 1 else self.again
        self._decided = self._decided_at_cut = self._asked = False
        self._moved = 0
        super().__init__(model, tables=tables, total_steps=total_steps)
        for table in self.gated:  # saved with the weights, so that a model from before the decision can be told apart
            gate_of(table).register_buffer("decided", torch.tensor(False, device=table.weight.device))
        self._start = [_print_of(table.weight) for table in self.tables]
        self.prepare()
        self.wake()
        if self.budget is not None:
            self.judge_budget(self.budget)

    # ---- what a method says

    def judge_budget(self, budget: Budget) -> None:
        """Warn of a budget that holds everything; a subclass may refuse one that holds nothing."""
        whole = sum(table.dim_bytes * table.width for table in self.tables)
        if 1.0 in (budget.size, budget.keep) or (budget.bytes or 0) >= whole:
            words = f"{type(self).__name__}: {budget} holds everything, so nothing will be pruned; try size=0.2"
            warnings.warn(words, NoEffectWarning, stacklevel=4)

    def prepare(self) -> None:
        """Check and make what the method needs besides; called once, when the gates are there."""

    def learn(self, step: Step) -> None:
        """Learn from the step that was just taken; called until it is decided. Count what was learned in ``_moved``."""

    @abstractmethod
    def decide(self) -> None:
        """Write what remains into the gates, which hold the rest at zero from here on."""

    @abstractmethod
    def undo(self) -> None:
        """Let the gates hold everything again."""

    @abstractmethod
    def spent(self) -> float:
        """What the gates hold, in the unit of the budget."""

    def wake(self) -> None:
        """Bring the gates into the mode of the step that comes next; called after every change of state."""

    def refuse_tied_heads(self) -> None:
        """For methods that keep rows or values.

        Raises:
            ValueError: a table is the weight of another layer too.
        """
        for table in self.tables:
            if used_elsewhere(self.model, table.modules):
                raise ValueError(
                    f"tables: {table.field!r} is also the weight of another layer (a tied output head), which keeps "
                    "the full tensor, so the model would grow; untie it, or name the other tables in tables="
                )

    # ---- the decision

    @property
    def decided(self) -> bool:
        """Whether it is decided what remains."""
        return self._decided

    def after_step(self, step: Step) -> None:
        """`learn`, and at ``decide_by`` of the training `decide`."""
        if self.penalised and not self._decided and not self._asked:
            name = type(self).__name__
            raise RuntimeError(f"{name}.step(): no penalty since the last step; add pruner.penalty() to the loss")
        self._asked = False
        if not self._decided:
            self.learn(step)
            if self.config.decide_by < 1 and step.number >= self.config.decide_by * step.steps_in_all:
                self._decide()

    def step(
        self, *, grad_scale: float = 1.0, validation_loss: Loss | None = None, training_loss: Loss | None = None
    ) -> None:
        super().step(grad_scale=grad_scale, validation_loss=validation_loss, training_loss=training_loss)
        self.wake()

    def begin(self, total_steps: int) -> None:
        super().begin(total_steps)
        if hasattr(self, "_start"):
            self.wake()

    @torch.no_grad()
    def _decide(self) -> None:
        self.decide()
        self._mark(True)
        self.wake()

    def _mark(self, decided: bool) -> None:
        self._decided = decided
        for table in self.gated:
            gate: Any = gate_of(table)
            gate.decided.fill_(decided)

    def check_settled(self) -> None:
        if not self._moved and not self._decided:
            name = type(self).__name__
            raise NotPolarisedError(
                f"{name}.prune(): it has learned nothing yet (step {self.steps_taken} of total_steps="
                f"{self._total_steps}), so nothing was cut; call pruner.step() after each optimizer step to the end of "
                "the training, or cut all the same: prune(force=True)"
            )

    def settle(self) -> None:
        """What `select` begins with: the decision, if it has not fallen, or not for the weights as they are now."""
        gates: list[Any] = [gate_of(table) for table in self.gated]
        if self._decided and not all(bool(gate.decided) for gate in gates):
            warnings.warn(
                f"{type(self).__name__}: the model was restored from before the cut was decided (as "
                "load_best_model_at_end does); what remains is decided anew, without training after it",
                UserWarning,
                stacklevel=4,
            )
            self._mark(False)
        if not self._decided:
            self._decide()
            self._decided_at_cut = True

    def undo_select(self) -> None:
        """The cut failed: what it decided is not decided."""
        if self._decided_at_cut:
            self._decided_at_cut = False
            self._mark(False)
            self.undo()
            self.wake()

    def budget_total(self) -> float:
        """The budget in its own unit: pairs or bytes."""
        return float("inf") if self.budget is None else self.budget.costs(self.tables)[1]

    def counts_bytes(self) -> bool:
        """Whether the budget is in bytes, so that an index costs something."""
        return self.budget is not None and self.budget.keep is None

    # ---- again

    def notes(self) -> tuple[str, ...]:
        """How the method goes on after the cut, if it trains again."""
        if self.retrain == "no":
            return ()
        words = f"{type(self).__name__} {_AGAIN[self.retrain]}; until then the model is not what the paper measures"
        return (words, "restart() gives tables in float: quantise after the second training")

    def restart(self, model: Model) -> Model:
        """Cut an unpruned ``model`` as the trained one was cut, for the training that follows; call it after `prune`.

        Args:
            model: of the same architecture, without a pruner, not the trained one. For ``retrain="rewind"`` with the
                weights that the training began with.

        Returns:
            The same model, smaller, in float whatever `prune` was told to ``quantize``: call `quantize_embeddings`
            after the second training. Make a new optimizer for it.

        Raises:
            RuntimeError: nothing was cut yet.
            ValueError: it is the model that was cut, or not the weights that the method goes back to.
            PolicyError: of another shape, or still gated.
        """
        name = type(self).__name__
        if self.report is None:
            raise RuntimeError(f"{name}.restart(): nothing was cut yet; call pruner.prune() first")
        if model is self.model:
            raise ValueError(f"{name}.restart(): this is the model that was cut; {name} {_AGAIN['fresh']}")
        plan = replace(self.report.plan, stored={})  # quantised tables could not be trained again
        plan.check(model=model)
        if self.retrain == "rewind":
            found: list[Any] = [model.get_submodule(table.paths[0]).weight for table in self.tables]
            for table, weight, start in zip(self.tables, found, self._start, strict=True):
                if not torch.allclose(torch.tensor(_print_of(weight)), torch.tensor(start), rtol=1e-4, atol=1e-6):
                    raise ValueError(
                        f"{name}.restart(): table {table.field!r} does not hold the weights that the training began "
                        f"with; {name} {_AGAIN['rewind']}; or, from other weights: pruner.report.plan.apply(model)"
                    )
        plan.apply(model)
        return model

    # ---- state

    def settings(self) -> dict[str, Any]:
        b = self.budget
        asked = {"keep": b and b.keep, "size": b and b.size, "budget_bytes": b and b.bytes}
        return {**asked, **asdict(self.config)}

    def state(self) -> JsonState:
        return {"decided": self._decided, "moved": self._moved, "start": self._start}

    def restore(self, state: JsonState) -> None:
        self._decided, self._moved = bool(state["decided"]), int(state["moved"])
        self._start = [list(entry) for entry in state["start"]]
        self.wake()


def _print_of(weight: Tensor) -> list[float]:
    """A few numbers that tell a table's weights from others: sum and energy of its first rows."""
    head = weight.detach()[:64].double()
    return [float(head.sum()), float(head.square().sum())]


def gate_gradients(pruner: Pruner, step: Step) -> list[Tensor]:
    """Per gated table the gradient of its gate's first leaf: mean over ranks, without the AMP scale.

    Args:
        pruner: whose leaves hold their gradients.
        step: the step that was just taken.

    Raises:
        FloatingPointError: not finite; the gates stay as they are.
    """
    leaves = [gate_of(table).leaves()[0] for table in pruner.gated]
    grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.detach().float() for leaf in leaves]
    return finite(type(pruner).__name__, [all_mean_(grad.clone()) / step.grad_scale for grad in grads], step)


def finite(name: str, grads: list[Tensor], step: Step) -> list[Tensor]:
    """``grads``, if all are finite.

    Args:
        name: of the pruner.
        grads: of its gates.
        step: for the error's words.

    Raises:
        FloatingPointError: one is not.
    """
    if not all(bool(torch.isfinite(grad).all()) for grad in grads):
        raise FloatingPointError(
            f"{name}.step(): the gates' gradient is not finite at step {step.number}, so the loss was NaN or infinite; "
            "lower the learning rate, or call skip_step() where the optimizer skipped its step"
        )
    return grads


def best_columns(scores: Sequence[Tensor], tables: Sequence[Table], budget: Budget, power: float = 0.0) -> list[Tensor]:
    """The columns with the largest score x cost ** -power that the budget holds.

    A table keeps at most as many columns as its rank can be (`Table.rank`).

    Args:
        scores: per table [d], larger is better.
        tables: in the same order.
        budget: what may be kept.
        power: 0 ranks by score alone, 1 by score per byte (or pair).

    Returns:
        per table bool [d].
    """
    costs, total = budget.costs(tables)
    flat, prices = [], []
    for score, table, cost in zip(scores, tables, costs, strict=True):
        rank = torch.argsort(torch.argsort(score, descending=True, stable=True), stable=True)
        price = torch.full(score.shape, cost, dtype=torch.float64)
        low = min(float(s.min()) for s in scores)
        worth = (score.double().cpu() - min(low, 0.0)) * cost ** (1 - power)
        flat.append(torch.where(rank.cpu() < table.rank, worth, -1.0))
        prices.append(torch.where(rank.cpu() < table.rank, price, float("inf")))
    keep = split_by_budget(torch.cat(flat), torch.cat(prices), total)
    parts = torch.split(keep, [len(score) for score in scores])
    return [part.to(score.device) for part, score in zip(parts, scores, strict=True)]


def best_tables(scores: Sequence[float], tables: Sequence[Table], budget: Budget, power: float = 0.0) -> list[bool]:
    """The whole tables with the largest score x cost ** -power that the budget holds.

    Args:
        scores: one per table, >= 0.
        tables: in the same order.
        budget: what may be kept.
        power: as in `best_columns`.
    """
    costs, total = budget.costs(tables)
    price = torch.tensor([c * t.width for c, t in zip(costs, tables, strict=True)], dtype=torch.float64)
    return [
        bool(k) for k in split_by_budget(torch.tensor(scores, dtype=torch.float64) * price ** (1 - power), price, total)
    ]
