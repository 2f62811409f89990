"""DimReg's cut: how far each gate still reaches, the cut of a gated model, and what it did to size and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tamis.core.errors import NotPolarisedError
from tamis.pruners.dimreg.config import DimRegConfig
from tamis.pruners.gates import Table, install, remove
from tamis.pruners.stats import weighted_moments
from tamis.pruners.surgery.cut import cut
from tamis.pruners.surgery.plan import PruningPlan
from tamis.pruners.surgery.trace import run_model
from tamis.pruners.surgery.transplant import narrow_parameter, unwrap_optimizers

__all__ = [
    "DimRegReport",
    "FieldReport",
    "column_peaks",
    "cut_gated",
    "gate_reach",
    "refuse_unsettled",
    "removed_and_kept",
]

HALF_OPEN_ALLOWED = 0.01
REMOVED_ALLOWED = 10.0  # thresholds: with 0.001, a value that is cut may be 1 % of the largest that stays


@dataclass(frozen=True)
class FieldReport:
    """One table: its dimensions and bytes before and after the cut."""

    field: str
    rows: int
    dims: int
    kept: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class DimRegReport:
    """The cut in figures; ``str(report)`` is a table.

    Attributes:
        fields: one entry per table.
        keep_share: share of all (table, dimension) pairs that are left.
        largest_removed: largest |phi x V| that was cut: no number that the tables return changed by more.
        output_change: largest |change of an output| on the example batch, against the gated model; None without one.
    """

    fields: tuple[FieldReport, ...]
    keep_share: float
    largest_removed: float
    output_change: float | None

    @property
    def bytes_before(self) -> int:
        return sum(field.bytes_before for field in self.fields)

    @property
    def bytes_after(self) -> int:
        return sum(field.bytes_after for field in self.fields)

    def __str__(self) -> str:
        width = max(len(field.field) for field in self.fields) + 2
        lines = [f"{'field':<{width}}{'rows':>12}{'kept dims':>12}{'bytes before':>16}{'bytes after':>16}"]
        for f in self.fields:
            kept = f"{f.kept}/{f.dims}"
            lines.append(f"{f.field:<{width}}{f.rows:>12,}{kept:>12}{f.bytes_before:>16,}{f.bytes_after:>16,}")
        share = self.bytes_after / self.bytes_before
        lines.append(f"{'all':<{width}}{'':>12}{self.keep_share:>12.1%}{self.bytes_before:>16,}{self.bytes_after:>16,}")
        lines.append(f"{share:.1%} of the bytes left; largest embedding value removed: {self.largest_removed:.2g}")
        if self.output_change is not None:
            lines.append(f"largest change of an output at the cut, on the example batch: {self.output_change:.2g}")
        return "\n".join(lines)


def column_peaks(tables: Sequence[Table]) -> list[Tensor]:
    """Largest |V| of every dimension over all rows, looked up or not; per table [d].

    Raises:
        FloatingPointError: a table holds NaN or infinity.
    """
    peaks = []
    for table in tables:
        low, high = torch.aminmax(table.weight.detach(), dim=0)
        peak = torch.maximum(low.abs(), high.abs())
        if not bool(torch.isfinite(peak).all()):
            raise FloatingPointError(
                f"DimReg.prune(): table {table.field!r} holds NaN or infinity, so nothing was cut; "
                "repair its rows, or go back to a checkpoint from before"
            )
        peaks.append(peak)
    return peaks


def gate_reach(phi: Sequence[Tensor], tables: Sequence[Table]) -> Tensor:
    """What each gate lets through, whatever V's scale: phi x max(1, rms(V) / rms of the table's open columns), [n].

    The rms is weighted by lookups. A column that grew while its gate closed counts as more open than its phi.

    Args:
        phi: per table [d].
        tables: the tables, in the same order.
    """
    reach = []
    for gate, table in zip(phi, tables, strict=True):
        mean, covariance = weighted_moments(table.weight.detach(), table.lookups())
        rms = (mean.square() + covariance.diagonal()).clamp(min=0).sqrt().to(gate)
        open_ = gate >= 0.5
        usual = rms[open_].mean() if bool(open_.any()) else rms.mean()
        reach.append(gate * (rms / usual.clamp(min=1e-12)).clamp(min=1.0))
    return torch.cat(reach)


def refuse_unsettled(
    phi: Sequence[Tensor], tables: Sequence[Table], spent: float, config: DimRegConfig, progress: str
) -> None:
    """Raise `NotPolarisedError` if what to cut is not decided yet, or the cut would take away large values.

    The first is judged by `gate_reach`. The second bounds what the outputs can change by: no closed value phi |V| may
    be more than `REMOVED_ALLOWED` x ``threshold`` times the largest that stays of the same table (of all tables, if
    it keeps none; the largest |V|, if nothing is kept), in any row, looked up or not.

    Args:
        phi: the gates, per table [d].
        tables: the tables, in the same order.
        spent: what the open gates cost, in budgets.
        config: the settings.
        progress: how far the training is, in words.

    Raises:
        FloatingPointError: a table holds NaN or infinity.
    """
    peaks, reach, flat = column_peaks(tables), gate_reach(phi, tables), torch.cat(list(phi))
    half = int(((reach > config.threshold) & (flat < 0.5)).sum())
    if half > HALF_OPEN_ALLOWED * len(flat):
        what = f"{half} of {len(flat)} gates ({half / len(flat):.1%}) are half open, between threshold="
        what += f"{config.threshold:g} and 0.5; at most 1 % may be"
    elif config.split == "budget" and spent > 1 + 1e-9:
        what = f"{int((flat >= 0.5).sum())} of {len(flat)} gates are open, the budget holds {spent:.2g} times less"
    else:
        removed, kept = removed_and_kept(phi, peaks)
        every = float(kept.max()) or max(float(peak.max()) for peak in peaks)
        share = removed / torch.where(kept > 0, kept, every).clamp(min=1e-12)
        worst = int(share.argmax())
        if float(share[worst]) <= REMOVED_ALLOWED * config.threshold:
            return
        what = f"the cut would remove a value of {float(removed[worst]):.2g} from table {tables[worst].field!r}, "
        what += f"{float(share[worst]):.2g} times the largest that stays, and at most {REMOVED_ALLOWED:g} x threshold="
        what += f"{config.threshold:g} may be"
    cure = "train longer, or raise gate_lr or strength"
    if config.split == "budget":
        cure = (
            f"train to the end (this is {progress}; with load_best_model_at_end the best model may be an early one), "
            f"or lower decide_by={config.decide_by:g} or closing={config.closing:g}"
        )
    raise NotPolarisedError(
        f"DimReg.prune(): {what}, so nothing was cut. {cure}; or cut at 0.5 all the same: prune(force=True)"
    )


def removed_and_kept(phi: Sequence[Tensor], peaks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Largest phi |V| among each table's closed (phi < 0.5) and open dimensions, over all rows; 0 where it has none.

    Args:
        phi: per table [d].
        peaks: `column_peaks`, per table [d].

    Returns:
        two float64 tensors, [tables].
    """
    sides = []
    for gate, peak in zip(phi, peaks, strict=True):
        value, open_ = gate.double() * peak.to(gate.device, torch.float64), gate >= 0.5
        sides.append(torch.stack([(value * ~open_).amax(), (value * open_).amax()]))
    removed, kept = torch.stack(sides).cpu().unbind(1)
    return removed, kept


def cut_gated(
    model: nn.Module, tables: Sequence[Table], logits: Sequence[Tensor], *, example_inputs: Any, **options: Any
) -> tuple[PruningPlan, DimRegReport]:
    """Take the gates off, cut what phi < 0.5 closes, and fold phi into the columns that are left.

    Args:
        model: gated.
        tables: its gated tables.
        logits: per table [d].
        example_inputs: for `cut`, and to compare the outputs with the gated model's.
        options: for `cut`.

    Raises:
        FloatingPointError: a table holds NaN or infinity; nothing is changed.
    """
    phi = [torch.sigmoid(part) for part in logits]
    kept = [(gate >= 0.5).nonzero()[:, 0] for gate in phi]
    removed = float(removed_and_kept(phi, column_peaks(tables))[0].max())
    before = None if example_inputs is None else run_model(model, example_inputs)
    lookups = [[module.counts for module in table.modules] for table in tables]
    for table in tables:
        remove(table)
    named = {table.paths[0]: columns.cpu() for table, columns in zip(tables, kept, strict=True)}
    try:
        plan = cut(model, named, example_inputs=example_inputs, **options)
    except BaseException:
        for table, part, counts in zip(tables, logits, lookups, strict=True):
            install(table, part)
            for module, count in zip(table.modules, counts, strict=True):
                module.counts = count
        raise
    for table, gate, columns in zip(tables, phi, kept, strict=True):
        _fold(model, table, gate[columns], options.get("optimizer"))
    fields = []
    for table, gate, columns in zip(tables, phi, kept, strict=True):
        size, left = plan.bytes_before(table.paths[0]), plan.bytes_after(table.paths[0])
        fields.append(FieldReport(table.field, table.rows, len(gate), len(columns), size, left))
    change = None
    if before is not None:
        after = run_model(model, example_inputs)
        change = max((float((a - b).abs().max()) for a, b in zip(before, after, strict=True) if a.numel()), default=0.0)
    return plan, DimRegReport(tuple(fields), plan.keep_share, removed, change)


def _fold(model: nn.Module, table: Table, phi: Tensor, optimizer: Any) -> None:
    """Multiply the columns that are left by their gates [k]; a tied output head keeps its own, ungated tensor."""
    weight = table.weight
    outside = (module for module in model.modules() if not any(module is mine for mine in table.modules))
    if any(parameter is weight for module in outside for parameter in module._parameters.values()):
        every = torch.arange(weight.shape[1], device=weight.device)
        weight = narrow_parameter(weight, every, unwrap_optimizers(optimizer), keep_old=True)
        for module in table.modules:
            module.weight = weight
    weight.mul_(phi.to(weight))
