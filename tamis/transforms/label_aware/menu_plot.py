"""A `MenuPolicy` as a picture that can be read for three classes and for a thousand."""

from __future__ import annotations

import numpy as np

from tamis.core.types import Figure
from tamis.transforms.label_aware.menu_words import NAMED, MenuView, by_specialness

__all__ = ["draw_menu"]


def draw_menu(policy: MenuView, figure: Figure) -> None:
    """Left: the most special classes, a cell for each operation; right: how many classes each operation is kept from.

    A cell is red where the class never gets the operation, the deeper the surer; light where it gets it milder; white
    where it gets it as the base has it; grey where none judged. The number is how sure the judges are, in percent.
    """
    order = by_specialness(policy)[:NAMED]
    figure.set_size_inches(11, max(4.5, 1.6 + 0.24 * len(order)))
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    strengths, judged, names = policy.strengths.numpy(), policy.judged, policy.names
    sure = 1 - policy.doubts.numpy() if policy.doubts.numel() else np.ones_like(strengths)
    colours = np.ones((len(order), len(names), 3))
    for row, label in enumerate(order):
        for at in range(len(names)):
            held = 1 - strengths[label, at]
            if held > 0:
                depth = held * (0.35 + 0.65 * sure[label, at])
                colours[row, at] = (1 - 0.2 * depth, 1 - 0.85 * depth, 1 - 0.85 * depth)
                text = f"{100 * sure[label, at]:.0f}" if judged[at] else "x"
                left.text(at, row, text, ha="center", va="center", fontsize=6)
            elif not judged[at]:
                colours[row, at] = 0.9
    left.imshow(colours, aspect="auto", interpolation="nearest")
    left.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    left.set_yticks(range(len(order)), [policy.classes[label] for label in order], fontsize=8)
    some = (
        "" if len(order) == len(policy.classes) else f"the {len(order)} most special of {len(policy.classes)} classes"
    )
    left.set_title(f"what a class must not get (how sure, %) {some}".strip(), fontsize=10)
    never, milder = (strengths == 0).sum(0), ((strengths > 0) & (strengths < 1)).sum(0)
    places = np.arange(len(names))
    right.barh(places, never, color="#c8232c", label="never")
    right.barh(places, milder, left=never, color="#f4a6a6", label="milder")
    right.set_yticks(
        places, [name if judged[at] else f"{name} (not judged)" for at, name in enumerate(names)], fontsize=7
    )
    right.invert_yaxis()
    right.set_xlim(0, len(policy.classes))
    right.set_xlabel(f"of {len(policy.classes)} classes")
    right.legend(fontsize="small")
