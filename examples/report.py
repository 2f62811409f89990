"""Pictures and the self-contained HTML page of the demo."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

SMALLER = (
    "The percentage after DimReg is the share of the tables' bytes that it may keep. A DeepFM needs tables of one "
    "width, so zeros are put back into the cut ones: smaller, not faster (a first layer that is cut is faster, see "
    "docs/methods/dimreg.md)."
)
BLUE, ORANGE, GREY = "#2f6db5", "#d9822b", "#8a8f98"


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(figure)
    return path


def _axes(width: float = 7.0, height: float = 3.6) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(width, height))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _number(value: float) -> str:
    """Two digits or more, and no 0.0 for what is small but there."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def draw_gates(before: Any, after: Any, path: Path) -> Path:
    """Histograms of all gates at the start and at the end of the training, one above the other."""
    figure, panels = plt.subplots(2, sharex=True, figsize=(7.0, 4.0))
    bins = [i / 40 for i in range(41)]
    for axes, gates, color, title in zip(panels, (before, after), (GREY, BLUE), ("before", "after"), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.hist(gates.tolist(), bins, color=color)
        axes.set(ylabel="dimensions", title=f"Gates {title} training")
    panels[1].set(xlabel="gate φ of an embedding dimension (0 closed, 1 open)")
    figure.tight_layout()
    return _save(figure, path)


def draw_dims(report: Any, name: str, path: Path) -> Path:
    """Per field: dimensions kept, and what its table weighs before and after."""
    fields = sorted(report.fields, key=lambda field: field.rows * field.dims)
    names = [f.field.rpartition(".")[2] for f in fields]
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(9.0, 0.8 + 0.32 * len(fields)))
    for axes, unit, scales in (
        (left, "embedding dimensions", [1.0] * len(fields)),
        (right, "KiB of its table", [f.rows * 4 / 1024 for f in fields]),
    ):
        axes.spines[["top", "right"]].set_visible(False)
        axes.barh(
            names, [f.dims * scale for f, scale in zip(fields, scales, strict=True)], color="#e6e8eb", label="full"
        )
        kept = [f.kept * scale for f, scale in zip(fields, scales, strict=True)]
        axes.bar_label(axes.barh(names, kept, color=BLUE, label="DimReg"), fmt=_number, padding=3, fontsize=8)
        axes.set(xlabel=unit)
    right.set(xscale="log")
    right.legend(frameon=False, loc="lower right")
    figure.suptitle(f"What {name} kept, field by field")
    figure.tight_layout()
    return _save(figure, path)


def draw_curve(results: list[Any], picked: Any, path: Path) -> Path:
    """Test AUC against embedding parameters: DimReg with the size that was ``picked``, and equally narrow tables."""
    figure, axes = _axes()
    for color, label, chosen in (
        (BLUE, "DimReg", [r for r in results if r.name.startswith("DimReg")]),
        (ORANGE, "equally narrow tables", [r for r in results if not r.name.startswith("DimReg")]),
    ):
        chosen = sorted(chosen, key=lambda r: r.parameters)
        axes.plot([r.parameters for r in chosen], [r.auc for r in chosen], "o-", color=color, label=label)
        for r in chosen:
            words = r.name.removeprefix("DimReg ")
            axes.annotate(
                words, (r.parameters, r.auc), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
            )
    axes.plot(picked.parameters, picked.auc, "o", ms=13, mfc="none", color=BLUE, label="chosen on held-out rows")
    axes.set(xscale="log", xlabel="embedding parameters", ylabel="test AUC", title="Accuracy against size (one seed)")
    axes.legend(frameon=False)
    return _save(figure, path)


def write_report(
    path: Path, data: str, main: list[Any], others: list[Any], verdict: str, fields: str, pictures: list[Path]
) -> Path:
    """One HTML page with everything inside it."""

    def row(result: Any) -> str:
        cells = (
            f"{result.validation_auc:.4f}",
            f"{result.auc:.4f}",
            f"{result.parameters:,}",
            f"{result.disk_bytes:,}",
            f"{result.rows_per_second:,.0f}",
            f"{result.seconds:.1f}",
        )
        return f"<tr><th>{html.escape(result.name)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

    images = "".join(
        f'<img alt="{picture.stem}" src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}">'
        for picture in pictures
    )
    head = (
        "<tr><th></th><th>AUC on held-out rows</th><th>test AUC</th><th>embedding parameters</th><th>bytes on disk</th>"
    )
    head += "<th>inference rows/s</th><th>training time, s</th></tr>"
    path.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>tamis demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ padding: .3rem .8rem; text-align: right }}
th:first-child {{ text-align: left }} tr + tr {{ border-top: 1px solid #dde }} img {{ max-width: 100%; margin: 1rem 0 }}
pre {{ background: #f5f6f8; padding: 1rem; overflow-x: auto; font-size: .8rem }}
</style>
<h1>DimReg on {html.escape(data)}</h1>
<p>A DeepFM trained as it is, and again with DimReg at several sizes: it decides during the same training which
embedding dimensions are worth keeping and cuts the others at the end. One seed: differences of a few thousandths of AUC
are noise here, and neither model was tuned (a full model that overfits a wide field of rare values loses to
anything smaller); the measurements against tuned rivals are in <code>benchmarks/RESULTS.md</code>.</p>
<table><tr>{head}</tr>{"".join(map(row, main))}</table>
<p><strong>{html.escape(verdict)}</strong></p>
<p>{html.escape(SMALLER)}</p>
{images}
<h2>Field by field</h2><pre>{html.escape(fields)}</pre>
<h2>The rival: tables that are equally narrow from the start</h2>
<table><tr>{head}</tr>{"".join(map(row, others))}</table>
</html>""",
        encoding="utf-8",
    )
    return path
