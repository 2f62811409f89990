"""`PruningReport`: the plan of a cut, by field, with what the cut measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tamis.pruners.surgery.plan import PruningPlan

__all__ = ["FieldReport", "PruningReport"]


@dataclass(frozen=True)
class FieldReport:
    """One table: its dimensions and bytes before and after the cut; ``kept`` is the mean over its rows."""

    field: str
    rows: int
    dims: int
    kept: float
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class PruningReport:
    """A cut in figures; ``str(report)`` is a table.

    Attributes:
        plan: what was cut.
        paths: field -> module path.
        largest_removed: largest |gated value| that was cut: no number that the tables return changed by more.
        output_change: largest |change of an output| on the example batch, against the gated model; None without one.
        notes: lines that the pruner adds, e.g. what a control found.
    """

    plan: PruningPlan
    paths: Mapping[str, str]
    largest_removed: float
    output_change: float | None
    notes: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[FieldReport, ...]:
        """One entry per table."""
        rows = []
        for field, path in self.paths.items():
            table, plan = self.plan.tables[path], self.plan
            kept = plan.selection(path).values(table.rows) / table.rows
            mean = int(kept) if kept == int(kept) else kept
            size, left = plan.bytes_before(path), plan.bytes_after(path)
            rows.append(FieldReport(field, table.rows, table.dim, mean, size, left))
        return tuple(rows)

    @property
    def keep_share(self) -> float:
        """Share of all (table, dimension) pairs that are left."""
        return self.plan.keep_share

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
            kept = self.plan.kept_words(self.paths[f.field])
            lines.append(f"{f.field:<{width}}{f.rows:>12,}{kept:>12}{f.bytes_before:>16,}{f.bytes_after:>16,}")
        share = self.bytes_after / self.bytes_before
        lines.append(f"{'all':<{width}}{'':>12}{self.keep_share:>12.1%}{self.bytes_before:>16,}{self.bytes_after:>16,}")
        lines.append(f"{share:.1%} of the bytes left; largest embedding value removed: {self.largest_removed:.2g}")
        if self.output_change is not None:
            lines.append(f"largest change of an output at the cut, on the example batch: {self.output_change:.2g}")
        return "\n".join((*lines, *self.notes))
