"""DimReg: embedding dimensions are pruned by polarised gates while the model trains, without a second training.

"Embedding Dimension Pruning", chapter 6 of the thesis "Automated Data Engineering" (Algorithm 5). What is new there:
gates on single embedding dimensions are polarised over all fields together, and once more within pairs of
dimensions that carry the same information. Polarisation: Zhuang et al., "Neuron-level Structured Pruning using
Polarization Regularizer", NeurIPS 2020.

=================  ===========================  =================================================
paper              here                         what
=================  ===========================  =================================================
V_i                ``Table.weight``             [rows, d], one table per field i
alpha_ij           ``gate`` of the module       [d] float32, logits
phi_ij             `DimReg.gates`               sigmoid(alpha), in (0, 1); [n] over all tables
lambda             ``strength``                 weight of both penalties
t                  ``temperature``              share of L1 in the polarisation, Eq. (6.6)
beta               ``pair_share``               share of pairs called redundant, Eq. (6.10)
l                  ``refresh_every``            steps between two searches for pairs
gamma              ``threshold``                a gate below it is closed
V                  ``pairs``                    [2, p] int64, the redundant pairs
=================  ===========================  =================================================

Deviations (``split="mean"`` has none of the first four):

* The split. About the mean of the gates, descent prunes everything or half, whatever t in Eq. (6.7) says. Here it lies
  where the budget is met: all open at first, a cubic schedule down to the target, then fixed for most of the training.
* What is ranked, per unit of the budget, is not phi, whose scale V can undo, but a running mean of (dL/dphi x phi)^2,
  the diagonal Fisher estimate of what closing the gate costs. It is summed per table and dealt out by the table's
  spectrum (`spectral_score`): a table that uses few directions keeps few dimensions.
* Gates move by mirror descent (`mirror_step`), so that one closes in a known number of steps.
* Redundancy enters the ranking within a table (`redundancy_discount`): in the penalty it would fight the split.
* Eq. (6.7) is the share kept, not the share pruned (`kept_share`).
* Pairs have their own temperature in (-1, 1): at the published t > 1, Eq. (6.11) closes both gates.
* |Pearson| is weighted by lookups, between open dimensions only, and tables below ``min_rows`` rows are left out:
  with 2 rows every |rho| is 1.
* A closed gate is judged by phi x rms(V), relative to its table's open columns, not by phi alone.

Unstated in the text: start, optimizer and learning rate of alpha, weight decay, a minimum per field (here none).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.checks import check_int
from tamis.core.distributed import all_mean_
from tamis.core.errors import NoEffectWarning
from tamis.core.rng import torch_generator
from tamis.pruners.base import Pruner
from tamis.pruners.dimreg.config import CLOSED, OPEN, DimRegConfig, check_keep, gate_costs
from tamis.pruners.dimreg.polarisation import (
    adam_step,
    budget_at,
    given_gradient,
    mirror_step,
    pair_polarisation_with_grad,
    polarisation,
    polarisation_grad,
    redundancy_discount,
    spectral_score,
    split_by_budget,
    split_polarisation,
    split_polarisation_grad,
)
from tamis.pruners.dimreg.settled import DimRegReport, cut_gated, refuse_unsettled
from tamis.pruners.gates import find_tables, install
from tamis.pruners.stats import correlation, spectrum, top_pairs, weighted_moments
from tamis.pruners.surgery.plan import PruningPlan
from tamis.pruners.watch import StepWatch

__all__ = ["DimReg", "DimRegConfig"]

COUNT_EVERY = 8  # lookups are counted on every 8th step: enough to weight rows by, and nearly free
DEFAULT_REFRESH = 1000  # steps, with split="mean"; Alg. 5 says 5 epochs


class DimReg(Pruner):
    """Gates every embedding table of ``model`` in place, learns which dimensions to keep, and cuts the others.

    A plain loop: ``loss = criterion(model(x), y) + pruner.penalty()``, ``pruner.step()`` after ``optimizer.step()``,
    ``plan = pruner.prune(optimizer)`` at the end. The gates are no parameters of the model: they have their own
    update, and the optimizer, its weight decay and gradient clipping do not see them.

    Args:
        model: not wrapped for data-parallel training yet. Tables of width 1 are left alone unless named.
        keep: share of all (table, dimension) pairs to keep, in (0, 1]; None: 0.2; not used with ``split="mean"``.
        budget_bytes: keep dimensions of at most this many bytes in all tables instead; excludes ``keep``.
        tables: field name -> module path, to gate only these tables; None: all of them.
        config: the settings.
        total_steps: how many optimizer steps the training will have; a trainer's callback calls `begin` instead.

    Raises:
        TypeError: ``model`` is no model, or wrapped already, or a named module is no plain embedding.
        ValueError: ``keep`` or ``budget_bytes`` out of range or both given, or a table that `find_tables` refuses.

    Warns:
        NoEffectWarning: the budget holds every dimension.
    """

    def __init__(
        self,
        model: nn.Module,
        keep: float | None = None,
        *,
        budget_bytes: int | None = None,
        tables: Mapping[str, str] | None = None,
        config: DimRegConfig | None = None,
        total_steps: int | None = None,
    ) -> None:
        if keep is not None and budget_bytes is not None:
            raise ValueError(f"keep={keep}, budget_bytes={budget_bytes}: must not be given both; leave one out")
        keep = check_keep(0.2 if keep is None else keep)
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise TypeError(
                f"model={type(model).__name__}: must be the model inside; make DimReg(model) first, then wrap the model"
            )
        self.model = model
        self.config = config or DimRegConfig()
        self.tables = find_tables(model, tables)
        self.report: DimRegReport | None = None
        self._widths = [table.width for table in self.tables]
        self._cost, self._budget = gate_costs(self.tables, keep, budget_bytes)
        self._settings = {"keep": keep, "budget_bytes": budget_bytes, **asdict(self.config)}
        self._target = min(1.0, self._budget / float(self._cost.sum()))
        if self._target == 1.0 and self.config.split == "budget":
            what = f"keep={keep:g}" if budget_bytes is None else f"budget_bytes={budget_bytes}"
            words = f"DimReg: {what} holds every dimension, so nothing will be pruned; try keep=0.2"
            warnings.warn(words, NoEffectWarning, stacklevel=2)
        self._total_steps: int | None = None
        if total_steps is not None:
            self.begin(total_steps)
        count = sum(self._widths)
        noise = torch.randn(count, generator=torch_generator(self.config.seed))
        logits = self.config.init_logit + self.config.init_spread * noise
        for table, part in zip(self.tables, self._per_table(logits), strict=True):
            install(table, part)
        self._step = 0
        self._watch = StepWatch()
        self._looked: int | None = None
        self._importance = torch.zeros(count)
        self._kept = torch.ones(count, dtype=torch.bool)
        self._pairs = torch.zeros(2, 0, dtype=torch.int64)
        self._overlap = torch.zeros(0)
        self._spectra = torch.cat([torch.full((width,), 1 / width) for width in self._widths])
        self._moments = torch.zeros(2, count)
        self._leaf = torch.zeros(count, requires_grad=True)  # takes the penalty's gradient, apart from the task's

    # ---- gates

    @property
    def gates(self) -> Tensor:
        """The phi of all tables in order, [n] in (0, 1), a copy."""
        return torch.sigmoid(self._logits())

    def _logits(self) -> Tensor:
        """The alpha of all tables, [n]; the pruner's own tensors follow to their device."""
        device = self.tables[0].modules[0].gate.device
        if self._importance.device != device:
            for name in ("_importance", "_kept", "_pairs", "_overlap", "_spectra", "_moments"):
                setattr(self, name, getattr(self, name).to(device))
            self._leaf = self._leaf.detach().to(device).requires_grad_()
        return torch.cat([table.modules[0].gate.detach().to(device) for table in self.tables])

    def _per_table(self, flat: Tensor) -> list[Tensor]:
        """Parts [d] of ``flat`` [n], one per table."""
        return list(torch.split(flat, self._widths))

    # ---- penalty

    def parameters(self) -> Sequence[Tensor]:
        """One leaf [n] that collects the penalty's gradient with respect to phi."""
        return [self._leaf]

    def penalty(self) -> Tensor:
        self._watch.penalty(self.tables[0].weight)
        value, slope = self._penalty()
        return given_gradient(self._leaf, value, slope)

    def add_penalty_grad(self, scale: float = 1.0) -> float:
        self._watch.penalty(self.tables[0].weight)
        value, slope = self._penalty()
        slope = slope * scale
        self._leaf.grad = slope if self._leaf.grad is None else self._leaf.grad + slope
        return float(value)

    def _penalty(self) -> tuple[Tensor, Tensor]:
        """Value of lambda (R_imp + R_red), line 10 of Alg. 5, and its gradient with respect to phi, [n]."""
        phi, c = self.gates, self.config
        if c.split == "budget":
            value = split_polarisation(phi, self._kept, c.temperature)
            slope = split_polarisation_grad(self._kept, c.temperature)
        else:
            value, slope = pair_polarisation_with_grad(phi, self._pairs, c.pair_temperature)
            value, slope = value + polarisation(phi, c.temperature), slope + polarisation_grad(phi, c.temperature)
        return c.strength * value, c.strength * slope

    # ---- training

    def begin(self, total_steps: int) -> None:
        self._total_steps = check_int("total_steps", total_steps, low=1)

    @torch.no_grad()
    def step(self, *, grad_scale: float = 1.0) -> None:
        """Move the gates, once after each optimizer step.

        Raises:
            ValueError: ``total_steps`` is not known.
            RuntimeError: no penalty since the last step.
            FloatingPointError: the gates' gradient is not finite (a NaN loss); the gates stay as they were.
        """
        c, logits = self.config, self._logits()
        task, penalty = self._take_gradients(logits.device)
        if penalty is None:
            raise RuntimeError("DimReg.step(): no penalty since the last step; add pruner.penalty() to the loss")
        task, penalty = all_mean_(task) / grad_scale, penalty / grad_scale
        if not bool(torch.isfinite(task).all()):
            raise FloatingPointError(
                f"DimReg.step(): the gates' gradient is not finite at step {self._step}, so the loss was NaN or "
                "infinite; lower the learning rate, or call skip_step() where the optimizer skipped its step"
            )
        phi, rest = torch.sigmoid(logits), torch.sigmoid(-logits)
        self._importance.lerp_((task / rest).square(), 1 - c.memory)  # dL/dalpha / (1 - phi) = dL/dphi x phi
        self._step += 1
        if c.split == "mean":
            logits = adam_step(logits, task + penalty * phi * rest, self._moments, self._step, c.gate_lr)
        else:
            rate = (OPEN - CLOSED) / max(1.0, c.closing * self._steps_in_all())
            logits = mirror_step(logits, (task / (phi * rest) + penalty) / c.strength, rate, CLOSED, OPEN)
        for table, part in zip(self.tables, self._per_table(logits), strict=True):
            if table.modules[0].counting:
                table.merge_lookups()
            for module in table.modules:
                module.gate.copy_(part)
                module.counting = self._step % COUNT_EVERY == 0
        self._decide()

    def skip_step(self) -> None:
        """Drop the gradients of a step that is not taken; without it they would count in the next one."""
        self._take_gradients(self._leaf.device)

    def _take_gradients(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Gradients d task / d alpha [n] and d penalty / d phi [n] (None: never asked for); both are cleared."""
        self._watch.stepped()
        parts = []
        for table in self.tables:
            part = torch.zeros(table.width, device=device)
            for module in table.modules:
                if module.gate.grad is not None:
                    part += module.gate.grad.to(device)
                    module.gate.grad = None
            parts.append(part)
        penalty, self._leaf.grad = self._leaf.grad, None
        return torch.cat(parts), penalty

    def _progress(self) -> str:
        return f"step {self._step} of total_steps={self._total_steps}"

    def _steps_in_all(self) -> int:
        if self._total_steps is None:
            raise ValueError(
                "total_steps=None: the schedule needs the number of optimizer steps; "
                "pass DimReg(..., total_steps=epochs * len(loader)), or call begin(total_steps)"
            )
        return self._total_steps

    def _decide(self) -> None:
        """Look at the tables and move the split, where it is time to."""
        c = self.config
        if c.split == "mean":
            if c.pair_share and self._step % (c.refresh_every or DEFAULT_REFRESH) == 0:
                self._look_at_tables()
            return
        total = self._steps_in_all()
        if not c.warm_up * total < self._step <= c.decide_by * total + 1:
            return
        if self._looked is None or self._step - self._looked >= (c.refresh_every or max(1, total // 50)):
            self._look_at_tables()
        share = budget_at(self._step / total, self._target, c.warm_up, c.decide_by)
        self._kept = split_by_budget(self._score().cpu(), self._cost, share * float(self._cost.sum()))
        self._kept = self._kept.to(self._importance.device)

    def _score(self) -> Tensor:
        order = redundancy_discount(self._importance, self._pairs, self._overlap)
        parts = (self._per_table(flat) for flat in (self._importance, order, self._spectra))
        return spectral_score(*parts)

    def _look_at_tables(self) -> None:
        """Spectra, and the top beta of all pairs of open dimensions by |Pearson| (lines 2 and 3 of Alg. 5)."""
        self._looked = self._step
        live, overlaps, spectra = self._per_table(self.gates >= 0.5), [], []
        for table, alive in zip(self.tables, live, strict=True):
            _, covariance = weighted_moments(table.weight.detach(), table.lookups())
            covariance = covariance.to(self._leaf.device)
            spectra.append(spectrum(covariance, alive).float())
            overlaps.append(correlation(covariance) if table.rows >= self.config.min_rows else None)
        self._spectra = torch.cat(spectra)
        self._pairs, self._overlap = top_pairs(overlaps, live, self.config.pair_share)

    def logs(self) -> dict[str, float]:
        """Share of open gates, the penalty, and the share of half-open gates."""
        phi = self.gates
        half = (phi > self.config.threshold) & (phi < 0.5)
        return {
            "tamis/keep_share": float((phi >= 0.5).float().mean()),
            "tamis/penalty": float(self._penalty()[0]),
            "tamis/half_open": float(half.float().mean()),
        }

    # ---- the cut

    @torch.no_grad()
    def prune(
        self,
        optimizer: Any = None,
        *,
        force: bool = False,
        consumers: Mapping[str, list[str | int]] | None = None,
        example_inputs: Any = None,
        project: bool = False,
    ) -> PruningPlan:
        """Fold the open gates into their tables, cut the closed dimensions, and fill ``report``.

        Args:
            optimizer: as for `tamis.pruners.surgery.cut`, and so are ``consumers``, ``example_inputs`` and ``project``.
            force: cut at phi = 0.5 although `NotPolarisedError` would be raised.
            consumers: see there.
            example_inputs: see there; the report then has the largest change of an output.
            project: see there.

        Raises:
            NotPolarisedError: more than 1 % of the gates are half open, the budget is not met yet, or a value that
                would be cut is large against those that stay; nothing is changed.
            FloatingPointError: a table holds NaN or infinity, ``force`` or not; nothing is changed.
            RuntimeError: cut already.
        """
        if self.report is not None:
            raise RuntimeError("DimReg.prune(): the model is cut already; make a new DimReg to prune it further")
        if not force:
            phi = self.gates
            spent = float(self._cost[(phi >= 0.5).cpu()].sum()) / self._budget
            refuse_unsettled(self._per_table(phi), self.tables, spent, self.config, self._progress())
        plan, self.report = cut_gated(
            self.model,
            self.tables,
            self._per_table(self._logits()),
            consumers=consumers,
            example_inputs=example_inputs,
            optimizer=optimizer,
            project=project,
        )
        return plan

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        return {
            "tables": self._layout(),
            "settings": dict(self._settings),
            "step": self._step,
            "total_steps": self._total_steps,
            "importance": self._importance.clone(),
            "kept": self._kept.clone(),
            "pairs": self._pairs.to(torch.int32),
            "overlap": self._overlap.clone(),
            "spectra": self._spectra.clone(),
            "looked": self._looked,
            "moments": self._moments.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`. The gates themselves are in the model's state dict.

        Raises:
            ValueError: the state of a model with other tables, or of a DimReg with another budget or config.
        """
        if list(map(list, state["tables"])) != self._layout():
            raise ValueError(
                f"state: was saved for tables [field, rows, dims] {state['tables']}, this model has {self._layout()}; "
                "load it into a DimReg of the same model"
            )
        for name, here in self._settings.items():
            if (there := state["settings"][name]) != here:
                raise ValueError(f"state: was saved with {name}={there}, here is {name}={here}; use one")
        device = self._importance.device
        self._step, self._total_steps, self._looked = int(state["step"]), state["total_steps"], state["looked"]
        for name in ("importance", "kept", "overlap", "spectra", "moments"):
            setattr(self, f"_{name}", state[name].to(device, copy=True))
        self._pairs = state["pairs"].to(device, torch.int64, copy=True)
        for table in self.tables:
            for module in table.modules:
                module.counting = self._step % COUNT_EVERY == 0

    def _layout(self) -> list[list[Any]]:
        return [[table.field, table.rows, table.width] for table in self.tables]
