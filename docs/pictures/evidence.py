"""Draws ``docs/pictures/evidence.png``, the README's picture, from ``benchmarks/results``: run it as a script."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BLUE, ORANGE, GREY = "#2f6db5", "#d9822b", "#8a8f98"
T_FIVE_SEEDS = 2.776  # 97.5 % quantile of Student's t with 4 degrees of freedom


class Gain(NamedTuple):
    """A difference of means and its 95 % interval; higher is better for the method."""

    mean: float
    low: float
    high: float


def figures(name: str) -> dict:
    """The figures of one file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())["figures"]


def dimreg(rival: str) -> Gain:
    """Crossed MovieLens-1M, DimReg at 1/32 of the bytes, paired over seeds; AUC."""
    runs = figures("dimreg_movielens1m_crossed_deepfm_32")
    differences = [run["test"] - runs[rival][seed]["test"] for seed, run in runs["DimReg 0.03125"].items()]
    mean, half = statistics.mean(differences), T_FIVE_SEEDS * statistics.stdev(differences) / math.sqrt(5)
    return Gain(mean, mean - half, mean + half)


def swift(rival: str) -> Gain:
    """Image codes with 40 % wrong labels; points of accuracy."""
    difference = figures("swift_noise")["noise_0.4"]["swift_minus"][rival]
    mean, half = 100 * difference["mean"], 100 * difference["half_width_95"]
    return Gain(mean, mean - half, mean + half)


def curriculum(rival: str) -> Gain:
    """Multi30k at the rate that suits both; what is taken off the perplexity."""
    difference = figures("curriculum_translation")["multi30k"]["rcl_ahead_slow minus it"][rival]
    mean, (low, high) = (difference[f"test perplexity (equal updates){end}"] for end in ("", ", 95 %"))
    return Gain(-mean, -high, -low)


def points(table: dict, rival: str, method: str) -> Gain:
    """``method`` minus ``rival`` in points of accuracy."""
    low, high = table[rival]["95 %"]
    return Gain(100 * table[rival][f"{method} minus it"], 100 * low, 100 * high)


def rows() -> list[tuple[str, str, tuple[str, Gain], tuple[str, Gain]]]:
    """Title, unit, the plain way and the strongest rival with the method's gain over each."""
    planted = figures("label_aware_planted")["test accuracy"]
    grid = figures("frames_grid")["mean of the labels"]["n = 8, the better of both"]
    columns, confident = "random columns, DimReg's counts 0.03125", "confident (SCSampler-like)"
    return [
        ("DimReg, 3 % of the\nembeddings left", "AUC",
         ("the full model", dimreg("full")), ("random columns, its counts", dimreg(columns))),
        ("Swift Sampler,\n40 % wrong labels", "points",
         ("uniform sampling", swift("uniform_budget")), ("tuned trimming", swift("trim"))),
        ("Reinforced curriculum,\n30 % shuffled targets", "perplexity",
         ("random continuation", curriculum("random_slow")), ("denoising", curriculum("denoising_slow"))),
        ("LA3,\nplanted classes", "points",
         ("search without labels", points(planted, "search without labels", "LA3")),
         ("RandAugment", points(planted, "RandAugment, long", "LA3"))),
        ("Search-Map-Search,\nshort windows", "points",
         ("uniform frames", points(grid, "uniform", "SMS")),
         ("single-frame confidence", points(grid, confident, "SMS"))),
    ]  # fmt: skip


def draw(path: Path) -> None:
    """One panel per method, each on a scale of its own around zero."""
    table = rows()
    figure, panels = plt.subplots(len(table), figsize=(8.6, 5.4))
    for axes, (title, unit, *rivals) in zip(panels, table, strict=True):
        reach = 1.1 * max(max(abs(gain.low), abs(gain.high)) for _, gain in rivals)
        axes.axvline(0, color=GREY, linewidth=1)
        for height, color, (rival, gain) in zip((1, 0), (BLUE, ORANGE), rivals, strict=True):
            axes.plot([gain.low, gain.high], [height, height], color=color, linewidth=5, alpha=0.35)
            axes.plot(gain.mean, height, "o", color=color, markersize=7)
            shown = -gain.mean if unit == "perplexity" else gain.mean
            axes.text(1.02, height, f"{shown:+.2g} {unit} against {rival}", color=color, va="center", fontsize=9,
                      transform=axes.get_yaxis_transform())  # fmt: skip
        axes.set(xlim=(-reach, reach), ylim=(-0.7, 1.7), yticks=[], xticks=[])
        axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10)
        axes.spines[:].set_visible(False)
        axes.set_facecolor("#f5f6f8")
    panels[0].set_title("worse   <   same   >   better", color=GREY, fontsize=10)
    figure.legend(
        [plt.Line2D([], [], color=c, marker="o", linewidth=5) for c in (BLUE, ORANGE)],
        ["against the plain way", "against the strongest rival (bars: 95 % interval)"],
        loc="lower center", ncols=2, frameon=False, bbox_to_anchor=(0.5, 0.0),
    )  # fmt: skip
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".png"))
