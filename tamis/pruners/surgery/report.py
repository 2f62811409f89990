"""`PruningReport`: the plan of a cut, by field, with what the cut measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tamis.pruners.surgery.plan import PruningPlan

__all__ = ["FieldReport", "PruningReport"]


@dataclass(frozen=True)
class FieldReport:
    """One table: its dimensions and bytes; ``kept`` is the mean over its rows.

    ``bytes_pruned`` are those after the cut, ``bytes_after`` those as it is stored: fewer if it was quantised.
    """

    field: str
    rows: int
    dims: int
    kept: float
    bytes_before: int
    bytes_after: int
    bytes_pruned: int


@dataclass(frozen=True)
class PruningReport:
    """A cut in figures; ``str(report)`` is a table.

    Attributes:
        plan: what was cut.
        paths: field -> module path.
        largest_removed: largest |gated value| that was cut: no number that the tables return changed by more.
        output_change: largest |change of an output| on the example batch, against the gated model; None without one.
        notes: lines that the pruner adds, e.g. what a control found.
        rounding_change: largest |change of an output| on the example batch by quantising, after the cut; None without
            a batch or without ``quantize``.
    """

    plan: PruningPlan
    paths: Mapping[str, str]
    largest_removed: float
    output_change: float | None
    notes: tuple[str, ...] = ()
    rounding_change: float | None = None

    @property
    def fields(self) -> tuple[FieldReport, ...]:
        """One entry per table."""
        rows = []
        for field, path in self.paths.items():
            table, plan = self.plan.tables[path], self.plan
            kept = plan.selection(path).values(table.rows) / table.rows
            mean = int(kept) if kept == int(kept) else kept
            size, left, pruned = plan.bytes_before(path), plan.bytes_after(path), plan.bytes_pruned(path)
            rows.append(FieldReport(field, table.rows, table.dim, mean, size, left, pruned))
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

    @property
    def bytes_pruned(self) -> int:
        return sum(field.bytes_pruned for field in self.fields)

    def __str__(self) -> str:
        stored = self.plan.stored
        width = max(len(field.field) for field in self.fields) + 2
        heads = ("bytes before", "bytes pruned", "bytes stored") if stored else ("bytes before", "bytes after")
        lines = [_line("field", "rows", "kept dims", heads, "as", width, bool(stored))]
        for f in self.fields:
            path = self.paths[f.field]
            sizes = (f.bytes_before, f.bytes_pruned, f.bytes_after) if stored else (f.bytes_before, f.bytes_after)
            figures = [f"{size:,}" for size in sizes]
            kept, kind = self.plan.kept_words(path), stored.get(path, "float")
            lines.append(_line(f.field, f"{f.rows:,}", kept, figures, kind, width, bool(stored)))
        before, pruned, after = self.bytes_before, self.bytes_pruned, self.bytes_after
        figures = [f"{size:,}" for size in ((before, pruned, after) if stored else (before, after))]
        lines.append(_line("all", "", f"{self.keep_share:.1%}", figures, "", width, bool(stored)))
        left = f"{pruned / before:.1%} after pruning, {after / before:.1%}" if stored else f"{after / before:.1%}"
        lines.append(f"{left} of the bytes left; largest embedding value removed: {self.largest_removed:.2g}")
        if self.output_change is not None:
            lines.append(f"largest change of an output at the cut, on the example batch: {self.output_change:.2g}")
        if self.rounding_change is not None:
            lines.append(f"largest change of an output by quantising, on it: {self.rounding_change:.2g}")
        return "\n".join((*lines, *self.notes))


def _line(field: str, rows: str, kept: str, sizes: Sequence[str], stored: str, width: int, shown: bool) -> str:
    """One line of the report."""
    figures = "".join(f"{size:>16}" for size in sizes)
    return f"{field:<{width}}{rows:>12}{kept:>12}{figures}" + (f"  {stored}".rstrip() if shown else "")
