"""The label-aware policy: for each class, the triples of image operations that suit it.

"LA3: Efficient Label-Aware AutoAugment", Zhao et al., ECCV 2022; chapter 4 of M. Zhao's thesis. Found by
`tamis.search.search_label_aware`, applied by `tamis.transforms.LabelAwareAugment`.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tamis.core.checks import check_choice
from tamis.core.errors import PolicyError
from tamis.core.types import Figure
from tamis.policy.base import DataInfo, Policy, register_policy
from tamis.policy.facts import Fact, Facts
from tamis.transforms.images.ops import IDENTITY, OPERATIONS

__all__ = ["LabelAwarePolicy"]

ORDERS = ("drawn", "stored")
COMBINATIONS = math.comb(len(OPERATIONS) + 2, 3)  # of three operations, whatever their order: 816
_HUES = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#3a3a3a")  # two operations each
_NAMED = 40  # classes up to which a plot and a summary name each one


@register_policy("label_aware")
@dataclass(frozen=True, kw_only=True)
class LabelAwarePolicy(Policy):
    """Triples of operations for each class.

    Attributes:
        classes: class names in label order: label i is ``classes[i]``.
        triples: uint8 [L, N, 3], places in ``operations``; one row of N triples for each class.
        rewards: float32 [L, 816], what the search expects of every combination (the change of the class' accuracy),
            in the order of `itertools.combinations_with_replacement`; empty if it is not known.
        order: ``"drawn"``: the three are applied in an order drawn anew each time, because the search judges a
            triple whatever its order; ``"stored"``: as they stand.
        operations: the names that ``triples`` counts in.
    """

    classes: tuple[str, ...]
    triples: Tensor
    rewards: Tensor = field(default_factory=lambda: torch.zeros(0))
    order: str = "drawn"
    operations: tuple[str, ...] = OPERATIONS

    def __post_init__(self) -> None:
        if self.operations != OPERATIONS:
            raise ValueError(f"operations={reprlib.repr(self.operations)}: must be {', '.join(OPERATIONS)}")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: must be at least one name, all distinct")
        check_choice("order", self.order, ORDERS)
        shape = tuple(self.triples.shape)
        if self.triples.dtype != torch.uint8 or len(shape) != 3 or shape[0] != len(self.classes) or shape[2] != 3:
            raise ValueError(f"triples: must be uint8 [{len(self.classes)}, N, 3], got {list(shape)}")
        if shape[1] == 0 or int(self.triples.max()) >= len(OPERATIONS):
            raise ValueError(f"triples: must hold at least one triple a class, each of 0..{len(OPERATIONS) - 1}")
        known = self.rewards.numel() > 0
        if self.rewards.dtype != torch.float32 or (known and tuple(self.rewards.shape) != (shape[0], COMBINATIONS)):
            wanted = f"[{shape[0]}, {COMBINATIONS}]"
            raise ValueError(f"rewards: must be empty or float32 {wanted}, got {list(self.rewards.shape)}")
        if not bool(torch.isfinite(self.rewards).all()):
            raise ValueError("rewards: must be finite")
        if self.data is None:
            object.__setattr__(self, "data", DataInfo(classes=self.classes))
        elif self.data.classes != self.classes:
            raise ValueError("data.classes: must be the policy's classes")

    @classmethod
    def from_authors(
        cls, released: str | os.PathLike[str] | Mapping[Any, Sequence[Sequence[str]]], classes: Sequence[str]
    ) -> LabelAwarePolicy:
        """A policy of the authors' released form, written as JSON (the card shows how to make it).

        Args:
            released: the JSON file or its content: ``{"0": [["ShearX", "Invert", "Identity"], ...], "1": ...}``, as
                many triples for each label.
            classes: the class names in label order.

        Raises:
            PolicyError: labels, operations or sizes are not of that form.
        """
        if isinstance(released, Mapping):
            content: Mapping[Any, Sequence[Sequence[str]]] = released
        else:
            try:
                content = json.loads(Path(released).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise PolicyError(f"{os.fspath(released)}: cannot be read as JSON ({error})") from error
        numbers = {name: number for number, name in enumerate(OPERATIONS)}
        try:
            rows = {int(label): [[numbers[op] for op in triple] for triple in content[label]] for label in content}
            if sorted(rows) != list(range(len(classes))):
                raise ValueError(f"labels {reprlib.repr(sorted(rows))}: must be 0..{len(classes) - 1}, as class names")
            triples = torch.tensor([rows[label] for label in range(len(classes))], dtype=torch.uint8)
            return cls(classes=tuple(classes), triples=triples, order="stored")
        except KeyError as error:
            raise PolicyError(f"released policy: operation {error}: must be one of {', '.join(OPERATIONS)}") from error
        except (TypeError, ValueError) as error:
            raise PolicyError(f"released policy: {error}") from error

    @property
    def changes_nothing(self) -> bool:
        """True if every triple is three times Identity."""
        return bool((self.triples == IDENTITY).all())

    def shares(self) -> np.ndarray:
        """The share of each operation among those of each class: float64 [L, 16], rows sum to 1."""
        flat = self.triples.numpy().reshape(len(self.classes), -1)
        counts = np.stack([np.bincount(row, minlength=len(OPERATIONS)) for row in flat])
        shares: np.ndarray = counts / flat.shape[1]
        return shares

    def facts(self) -> Facts:
        """What the policy says: what each class prefers and avoids, beside the mean over all classes."""
        shares, mean = self.shares(), self.shares().mean(0)
        distinct = len({tuple(sorted(triple)) for row in self.triples.tolist() for triple in row})
        most = np.argsort(-mean, kind="stable")[:4]
        rows = [
            Fact("distinct", distinct, f"{distinct} distinct combinations in all; applied in {self.order} order"),
            Fact("most used", [OPERATIONS[at] for at in most], f"most used: {_listed(most, mean)}"),
        ]
        for name, row in list(zip(self.classes, shares, strict=True))[:_NAMED]:
            more, less = np.argsort(-(row - mean), kind="stable")[:2], np.argsort(row - mean, kind="stable")[:2]
            words = f"{name}: more {_listed(more, row)}; less {_listed(less, row)}"
            rows.append(Fact(f"class {name}", row.tolist(), words))
        if len(self.classes) > _NAMED:
            rest = len(self.classes) - _NAMED
            rows.append(Fact("classes more", rest, f"... and {rest} classes more"))
        title = f"label-aware policy: {self.triples.shape[1]} triples of operations for each of {len(shares)} classes"
        if self.search is None:
            return Facts(title=title, rows=tuple(rows))
        budget = ", ".join(f"{value:,} {name}" for name, value in sorted(self.search.budget.items()))
        score = "" if self.search.score is None else f", mean reward {self.search.score:.4f}"
        words = f"found by a search of {budget} (seed {self.search.seed}){score}"
        return Facts(title=title, rows=tuple(rows), provenance=(Fact("search", self.search.budget, words),))

    def diff(self, other: Policy, *, least: float = 0.05) -> str:
        """What ``other`` does differently, one line for each class that changed.

        Args:
            other: a policy for the same classes.
            least: the smallest change of an operation's share that is named, in [0, 1].

        Raises:
            PolicyError: a policy of another kind or for other classes.
        """
        if not isinstance(other, LabelAwarePolicy):
            raise PolicyError(f"label_aware.diff: must be a label-aware policy, got {other.kind!r}")
        self.check(data=DataInfo(classes=other.classes))
        lines = []
        for name, change in zip(self.classes, other.shares() - self.shares(), strict=True):
            named = [at for at in np.argsort(-np.abs(change), kind="stable") if abs(change[at]) >= least]
            if named:
                lines.append(f"{name}: " + ", ".join(f"{OPERATIONS[at]} {100 * change[at]:+.0f} %" for at in named))
        return "\n".join(lines) or f"no operation's share differs by {100 * least:.0f} % in any class"

    def draw(self, figure: Figure) -> None:
        """The thesis' figure 4.3: the proportion of each operation in each class' policy."""
        axes, shares = figure.subplots(), self.shares()
        below, named = np.zeros(len(self.classes)), len(self.classes) <= _NAMED
        for at, name in enumerate(OPERATIONS):
            hue, light = divmod(at, 2)
            axes.bar(
                range(len(self.classes)),
                shares[:, at],
                0.85 if named else 1.0,
                below,
                label=name,
                color=_HUES[hue],
                alpha=0.45 if light else 1.0,
                hatch="////" if light else None,
                edgecolor="white",
                linewidth=0.5 if named else 0.0,
            )
            below += shares[:, at]
        if named:
            axes.set_xticks(range(len(self.classes)), self.classes, rotation=45, ha="right")
        axes.set(ylabel="proportion", ylim=(0, 1), xlim=(-0.6, len(self.classes) - 0.4), title="operations by class")
        handles, names = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")


def _listed(places: np.ndarray, shares: np.ndarray) -> str:
    return ", ".join(f"{OPERATIONS[at]} {100 * shares[at]:.0f} %" for at in places)
