"""What trainers know of a pruner, and what a new pruner has to say.

Trainers talk to `Regularizer` (a penalty on parameters) and `Pruner` (a step, a cut, a state). A new pruner derives
from `Pruner` and says three things: what is gated (`make_gate`), when it learns (`penalty`, `after_step`,
`on_validation`), and what remains (`select`). The base class owns the rest: it installs the gates, drives the steps,
cuts the model, and keeps the state.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tamis.core.checks import check_int
from tamis.core.models import evaluating
from tamis.core.types import Batch, JsonState, OptimizerLike
from tamis.pruners.arguments import Loss, checked_loss
from tamis.pruners.gates import Gate, gate_of, install
from tamis.pruners.selection import Selection, as_selection
from tamis.pruners.surgery.gated import cut_gated
from tamis.pruners.surgery.packing import check_stored
from tamis.pruners.surgery.plan import PruningPlan
from tamis.pruners.surgery.quantize import refuse_trained
from tamis.pruners.surgery.report import PruningReport
from tamis.pruners.tables import Table, find_tables
from tamis.pruners.watch import StepWatch

__all__ = ["Loss", "Pruner", "Regularizer", "Step"]


class Regularizer(ABC):
    """A differentiable penalty on some tensors of a model, added to the loss of each optimizer step."""

    @abstractmethod
    def parameters(self) -> Sequence[Tensor]:
        """The tensors that the penalty differentiates (leaves that require grad)."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """The penalty, a scalar with a graph to `parameters`, its weight (lambda) included.

        A plain loop adds it to every micro-batch loss that it divides by the accumulation steps.
        """

    def add_penalty_grad(self, scale: float = 1.0) -> float:
        """Add ``scale`` x d penalty / d parameter to each ``.grad``; return the penalty's value.

        Called once before the first backward of an optimizer step, this is exactly the gradient of
        ``loss + penalty`` under accumulation, DDP averaging and clipping. The default differentiates
        `penalty`; a subclass with a closed form overrides it.
        """
        tensors = [t for t in self.parameters() if t.requires_grad]
        value = self.penalty()
        if tensors:
            grads: Sequence[Tensor | None] = torch.autograd.grad(value, tensors, allow_unused=True)
            for tensor, grad in zip(tensors, grads, strict=True):
                if grad is None:
                    continue
                grad = grad.to(tensor.dtype) * scale
                tensor.grad = grad if tensor.grad is None else tensor.grad + grad
        return float(value.detach())


@dataclass(frozen=True)
class Step:
    """One optimizer step, as a pruner is told of it.

    Attributes:
        number: how many steps were taken, this one included, >= 1.
        total: how many the training will have; None: nobody said.
        grad_scale: the AMP loss scale that is still in the gates' gradients.
        training_loss: the loss of a training batch, if the loop gave one; None otherwise.
    """

    number: int
    total: int | None = None
    grad_scale: float = 1.0
    training_loss: Loss | None = None

    @property
    def steps_in_all(self) -> int:
        """``total``, where a schedule needs it.

        Raises:
            ValueError: nobody said.
        """
        if self.total is None:
            raise ValueError(
                "total_steps=None: the schedule needs the number of optimizer steps; "
                "pass total_steps=epochs * len(loader) to the pruner, or call begin(total_steps)"
            )
        return self.total


class Pruner(Regularizer):
    """Learns what to remove while a model trains, and removes it at the end. Derive from it to add a method.

    A subclass sets what `make_gate` needs and calls ``super().__init__``; the plain loop of every pruner is
    ``pruner.step()`` after ``optimizer.step()`` (with ``validation_loss=`` if it `validates`) and
    ``plan = pruner.prune(optimizer)`` at the end.

    Args:
        model: not wrapped for data-parallel training yet. Tables of width 1 are left alone unless named.
        tables: field name -> module path, to gate only these tables; None: all of them.
        total_steps: how many optimizer steps the training will have; a trainer's callback calls `begin` instead.

    Attributes:
        validates: how many validation batches a step needs, 0 or 1.
        trains: 1 if `on_validation` asks for `Step.training_loss`; a trainer then gives one.
        retrain: whether the method trains again after the cut: ``no``, ``fresh`` (from new weights) or ``rewind``
            (from the first ones). It is a word to the user; `tamis.pruners.BudgetedPruner.restart` prepares the model.
        report: what the cut did; None before.

    Raises:
        TypeError: ``model`` is not an nn.Module, or wrapped already, or a named module is not a plain embedding.
        ValueError: a table that `find_tables` refuses.
    """

    validates: ClassVar[int] = 0
    trains: int = 0
    quantize: str | None = None
    retrain: Literal["no", "fresh", "rewind"] = "no"

    def __init__(
        self, model: nn.Module, *, tables: Mapping[str, str] | None = None, total_steps: int | None = None
    ) -> None:
        name = type(self).__name__
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise TypeError(
                f"model={type(model).__name__}: must be the model inside; make {name}(model) first, then wrap the model"
            )
        self.model = model
        self.tables: list[Table] = find_tables(model, tables)
        self.report: PruningReport | None = None
        self._layout: list[list[Any]] = [[table.field, table.rows, table.width] for table in self.tables]
        self._taken = 0
        self._total_steps: int | None = None
        self._watch = StepWatch()
        if total_steps is not None:
            self.begin(total_steps)
        gates = [self.make_gate(table) for table in self.tables]
        for table, gate in zip(self.tables, gates, strict=True):
            if gate is not None:
                install(table, gate)

    # ---- what a method says

    @abstractmethod
    def make_gate(self, table: Table) -> Gate | None:
        """The gate for ``table``; None to leave it ungated (it is then cut by `select` all the same)."""

    @abstractmethod
    def select(self) -> Mapping[str, Selection]:
        """What remains, by field; a table that is left out remains whole. Called once, at the cut."""

    def penalty(self) -> Tensor:
        """Zero: a pruner without a penalty of its own."""
        return torch.zeros(())

    def parameters(self) -> Sequence[Tensor]:
        """What `penalty` differentiates; nothing by default."""
        return []

    def after_step(self, step: Step) -> None:
        """Learn from the optimizer step that was just taken; the gates' leaves hold their gradients of its loss."""

    def on_validation(self, loss: Loss, step: Step) -> None:
        """Learn from a validation batch, after `after_step`.

        Args:
            loss: the loss of the batch with the model and gates as they are; call it as often as needed.
            step: the step that was just taken.
        """

    def check_settled(self) -> None:
        """Raise `NotPolarisedError` if what to cut is not decided yet; by default it always is."""

    def undo_select(self) -> None:
        """Called if the cut that `select` was called for was refused; nothing by default."""

    def notes(self) -> tuple[str, ...]:
        """Lines that the report ends with; nothing by default."""
        return ()

    def state(self) -> JsonState:
        """What `restore` needs besides the model's own state dict (which holds the gates' leaves)."""
        return {}

    def restore(self, state: JsonState) -> None:
        """Take back what `state` gave."""

    def settings(self) -> dict[str, Any]:
        """Settings that a resumed run must share, scalars by name."""
        return {}

    def adopt(self, saved: dict[str, Any]) -> dict[str, Any]:
        """Called with saved `settings` before they are compared with this pruner's.

        Returns:
            What they are to be compared as: earlier releases may have had other names. A pruner may take over here
            what its user left to the defaults.
        """
        return saved

    def logs(self) -> dict[str, float]:
        """Scalars for the trainer's log, named ``tamis/...``."""
        return {}

    # ---- what the base class does

    @property
    def steps_taken(self) -> int:
        """How many optimizer steps the pruner was told of."""
        return self._taken

    @property
    def gates(self) -> Tensor:
        """Every factor that the gates learn, of all tables in order, one vector, a copy."""
        return torch.cat([leaf.detach().reshape(-1) for table in self.gated for leaf in gate_of(table).leaves()])

    @property
    def gated(self) -> list[Table]:
        """The tables that have a gate."""
        return [table for table in self.tables if hasattr(table.modules[0], "gate")]

    def begin(self, total_steps: int) -> None:
        """Told by the trainer how many optimizer steps the training will have; resets nothing."""
        self._total_steps = check_int("total_steps", total_steps, low=1)

    def step(
        self, *, grad_scale: float = 1.0, validation_loss: Loss | None = None, training_loss: Loss | None = None
    ) -> None:
        """Called once after each optimizer step.

        Args:
            grad_scale: the AMP loss scale that is still in the gates' gradients.
            validation_loss: for a pruner that `validates`: computes the loss of one validation batch.
            training_loss: computes the loss of a training batch; only second-order methods ask for it.

        Raises:
            TypeError: a loss is no function, or returns no scalar tensor.
            ValueError: a validation loss is missing, given to a pruner that learns nothing from one, without a graph,
                or the same tensor as before.
        """
        name = type(self).__name__
        if self.validates and validation_loss is None:
            raise ValueError(
                f"{name}.step(): must be given a validation loss, from which the gates learn: "
                "pruner.step(validation_loss=lambda: criterion(model(x_val), y_val)); in a Trainer "
                f"PruningCallback({name.lower()}, validation=dataset)"
            )
        if validation_loss is not None and not self.validates:
            raise ValueError(f"{name}.step(): learns nothing from validation batches; leave validation_loss out")
        if validation_loss is not None:
            validation_loss = checked_loss(f"{name}.step(): validation_loss", validation_loss)
        if training_loss is not None:
            training_loss = checked_loss(f"{name}.step(): training_loss", training_loss)
        step = Step(self._taken + 1, self._total_steps, grad_scale, training_loss)
        self._watch.stepped()
        with torch.no_grad():
            self.after_step(step)
        self._drop_gradients()
        if validation_loss is not None:
            with torch.enable_grad(), evaluating(self.model):
                if not self._taken:  # a loss of the wrong kind is told at once, and not after a warm-up
                    with torch.no_grad():
                        validation_loss()
                self.on_validation(validation_loss, step)
            self._drop_gradients()
        self._taken += 1

    def skip_step(self) -> None:
        """Called instead of `step` when the optimizer skipped its step (AMP overflow): drop the gates' gradients."""
        self._watch.stepped()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        for table in self.gated:
            for leaf in gate_of(table).leaves():
                leaf.grad = None
        for leaf in self.parameters():
            leaf.grad = None

    @torch.no_grad()
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
        """Fold the gates into their tables, make the model physically smaller, and fill ``report``.

        Args:
            optimizer: its state is transplanted to the smaller parameters; wrappers are unwrapped.
            force: cut although `check_settled` would raise `NotPolarisedError`.
            consumers: linear layer -> what it reads, as `tamis.pruners.cut` takes it.
            example_inputs: a batch to run the model on, where the cut can use one; the report then has the largest
                change of an output.
            project: as for `tamis.pruners.cut`.
            quantize: store the tables as ``int8``, ``int4`` or ``int2`` (`quantize_embeddings`), not to be trained
                any more: leave ``optimizer`` out. None: as the pruner's own ``quantize`` says, if it has one (DimReg).

        Raises:
            ValueError: ``optimizer`` was given with ``quantize``; nothing was changed.
            NotPolarisedError: what to cut is not decided yet; nothing was changed.
            FloatingPointError: a table holds NaN or infinity, ``force`` or not; nothing was changed.
            RuntimeError: cut already.
        """
        name = type(self).__name__
        if self.report is not None:
            raise RuntimeError(f"{name}.prune(): the model is cut already; make a new {name} to prune it further")
        quantize = self.quantize if quantize is None else quantize
        if quantize is not None:
            check_stored("quantize", quantize)
            refuse_trained({table.field: table.modules for table in self.tables}, optimizer, quantize)
        if not force:
            self.check_settled()
        selections = {
            field: as_selection(f"{name}.select()[{field!r}]", kept) for field, kept in dict(self.select()).items()
        }
        if all(t.field in selections and not selections[t.field].values(t.rows) for t in self.tables):
            words = f"{name}.prune(): nothing is left of any table, so every lookup reads as zero; prune less"
            warnings.warn(words, UserWarning, stacklevel=3)  # through no_grad
        try:
            plan, self.report = cut_gated(
                self.model,
                self.tables,
                selections,
                notes=(*self._emptied(selections), *self.notes()),
                consumers=consumers,
                example_inputs=example_inputs,
                optimizer=optimizer,
                project=project,
                quantize=quantize,
            )
        except BaseException:
            self.undo_select()
            raise
        return plan

    def _emptied(self, selections: Mapping[str, Selection]) -> tuple[str, ...]:
        empty = [t.field for t in self.tables if t.field in selections and not selections[t.field].values(t.rows)]
        return (f"nothing is left of: {', '.join(empty)}; every row of them reads as zero",) if empty else ()

    def state_dict(self) -> JsonState:
        """JSON values and tensors: everything that is not in the model's own state dict."""
        return {
            "tables": self._layout,
            "settings": self.settings(),
            "step": self._taken,
            "total_steps": self._total_steps,
            **self.state(),
        }

    def load_state_dict(self, state: JsonState) -> None:
        """Restore `state_dict`; training then goes on as if it had not stopped.

        Raises:
            ValueError: the state of a model with other tables, or of a pruner with other settings.
        """
        if list(map(list, state["tables"])) != self._layout:
            raise ValueError(
                f"state: was saved for tables [field, rows, dims] {state['tables']}, this model has {self._layout}; "
                f"load it into a {type(self).__name__} of the same model"
            )
        saved = self.adopt(dict(state["settings"]))
        for name, here in self.settings().items():
            there = saved.get(name)
            there = list(there) if isinstance(there, tuple) else there
            here = list(here) if isinstance(here, tuple) else here
            if there != here:
                raise ValueError(f"state: was saved with {name}={there}, here is {name}={here}; use one")
        self._taken, self._total_steps = int(state["step"]), state["total_steps"]
        self.restore(state)
