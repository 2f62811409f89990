"""A `MenuPolicy` in words."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

from tamis.policy.facts import Fact, Facts, search_fact
from tamis.policy.info import SearchInfo
from tamis.transforms.images.menu import BASES

__all__ = ["NAMED", "MenuView", "by_specialness", "menu_facts", "sureness"]

NAMED = 40  # classes that a summary and a plot name


class MenuView(Protocol):
    """What words and pictures read of a `MenuPolicy`."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def base(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def chances(self) -> tuple[float, ...]: ...
    @property
    def operations(self) -> int: ...
    @property
    def magnitude(self) -> int: ...
    @property
    def strengths(self) -> Tensor: ...
    @property
    def harms(self) -> Tensor: ...
    @property
    def doubts(self) -> Tensor: ...
    @property
    def judged(self) -> np.ndarray: ...
    @property
    def search(self) -> SearchInfo | None: ...


def by_specialness(policy: MenuView) -> np.ndarray:
    """Labels from the most special to the least: int [L].

    A class is special where its strengths differ from those that most classes have; among equals the one whose
    judges saw more harm comes first.
    """
    strengths = policy.strengths.numpy()
    apart = np.abs(strengths - np.median(strengths, axis=0)).sum(1)
    harm = np.zeros(len(strengths))
    if policy.harms.numel():
        harm = np.nan_to_num(policy.harms.numpy()).max(1)
    order: np.ndarray = np.lexsort((-harm, -(1 - strengths).sum(1), -apart))
    return order


def sureness(policy: MenuView, label: int, at: int) -> str:
    """How sure a restriction is, in words; empty if nobody judged."""
    if policy.doubts.numel() == 0 or not policy.judged[at]:
        return ""
    sure = 100 * (1 - float(policy.doubts[label, at]))
    return "> 99.9 %" if sure > 99.9 else f"{sure:.1f} %" if sure > 99 else f"{sure:.0f} %"


def menu_facts(policy: MenuView) -> Facts:
    """The facts of `MenuPolicy.facts`."""
    title = f"label-aware {_base(policy)} for {len(policy.classes)} classes"
    rows = [_overall(policy), *_operations(policy)]
    order = by_specialness(policy)
    special = [int(label) for label in order if _restrictions(policy, int(label))]
    for label in special[:NAMED]:
        row = policy.strengths[label].tolist()
        words = ", ".join(_restrictions(policy, label, _everywhere(policy)))
        if words:
            rows.append(Fact(f"class {policy.classes[label]}", row, f"{policy.classes[label]}: {words}"))
    if len(special) > NAMED:
        rest = len(special) - NAMED
        rows.append(Fact("classes more", rest, f"... and {rest} classes more with operations that they must not get"))
    if policy.search is None:
        return Facts(title=title, rows=tuple(rows))
    budget = ", ".join(f"{value:,} {name}" for name, value in sorted(policy.search.budget.items()))
    words = f"found by a search of {budget} (seed {policy.search.seed})"
    return Facts(title=title, rows=tuple(rows), provenance=(search_fact(policy.search)[0]._replace(text=words),))


def _base(policy: MenuView) -> str:
    if policy.base == "randaugment":
        return f"RandAugment({policy.operations}, {policy.magnitude})"
    return "TrivialAugment"


def _overall(policy: MenuView) -> Fact:
    never, milder = (policy.strengths == 0).sum(), ((policy.strengths > 0) & (policy.strengths < 1)).sum()
    pairs, free = policy.strengths.numel(), int((policy.strengths == 1).all(1).sum())
    text = (
        f"{int(never)} of {pairs} (class, operation) pairs are vetoed, {int(milder)} are milder; {free} classes get all"
    )
    if int(never) + int(milder) == 0:
        text = f"no veto: every class gets the whole menu of {len(policy.names)} operations"
    return Fact("vetoes", int(never), text)


def _operations(policy: MenuView) -> list[Fact]:
    """What became of the added operations, and which were not judged."""
    rows, judged, own = [], policy.judged, len(BASES[policy.base])
    for at in range(own, len(policy.names)):
        spared, name = int((policy.strengths[:, at] == 0).sum()), policy.names[at]
        chance = policy.chances[at - own]
        how = f"applied with chance {chance:g}" if chance else "drawn like the base's own"
        words = f"{name}: {how}; kept from {spared} of {len(policy.classes)} classes"
        if spared == len(policy.classes) > 1:
            words = f"{name}: kept from all classes: either it changes them all, or no judge has ever seen the like"
        rows.append(Fact(f"operation {name}", spared, words + ("" if judged[at] else "; NOT JUDGED")))
    missing = [policy.names[at] for at in range(1, own) if not judged[at]]
    if judged.any() and missing:
        rows.append(Fact("not judged", missing, f"not judged, so as the base has them: {', '.join(missing)}"))
    return rows


def _everywhere(policy: MenuView) -> frozenset[int]:
    """Operations that no class gets: said once, not for every class."""
    return frozenset(int(at) for at in (policy.strengths == 0).all(0).nonzero().flatten())


def _restrictions(policy: MenuView, label: int, said: frozenset[int] = frozenset()) -> list[str]:
    found = []
    for at, strength in enumerate(policy.strengths[label].tolist()):
        if strength == 1 or at in said:
            continue
        sure = sureness(policy, label, at)
        what = f"never {policy.names[at]}" if strength == 0 else f"{policy.names[at]} up to {strength:.0%}"
        found.append(what + (f" (sure {sure})" if sure else ""))
    return found
