"""What a policy says, as data: `Policy.summary`, the ``tamis show`` command and `Policy.diff` read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from tamis.policy.info import DataInfo, SearchInfo

__all__ = ["Fact", "Facts", "data_fact", "search_fact"]

#: A fact's value: JSON, so that two can be compared and a report can draw them.
FactValue: TypeAlias = bool | int | float | str | list[float] | list[str] | dict[str, int] | dict[str, float] | None


class Fact(NamedTuple):
    """One thing that a policy says.

    Attributes:
        name: short, the same for every policy of a kind, e.g. ``"budget"``.
        value: as data.
        text: the same in words, one line.
    """

    name: str
    value: FactValue
    text: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a policy says.

    Attributes:
        title: what it is, in one line.
        rows: what it says.
        provenance: where it comes from: its search and data.
    """

    title: str
    rows: tuple[Fact, ...]
    provenance: tuple[Fact, ...] = ()

    def __str__(self) -> str:
        """The title, then a line for each fact."""
        return "\n".join([self.title, *(f"  {fact.text}" for fact in (*self.rows, *self.provenance))])

    def as_dict(self) -> dict[str, FactValue]:
        """Each fact's value by its name, provenance included."""
        return {fact.name: fact.value for fact in (*self.rows, *self.provenance)}

    def differences(self, other: Facts) -> list[tuple[str, str, str]]:
        """The facts that differ: (name, our words, theirs), ``"-"`` for a fact that one of the two lacks."""
        mine, theirs = ({fact.name: fact for fact in (*facts.rows, *facts.provenance)} for facts in (self, other))
        return [
            (name, mine[name].text if name in mine else "-", theirs[name].text if name in theirs else "-")
            for name in dict.fromkeys((*mine, *theirs))
            if mine.get(name) != theirs.get(name)
        ]


def search_fact(search: SearchInfo | None) -> tuple[Fact, ...]:
    """How the policy was found; nothing if it is not known."""
    if search is None:
        return ()
    budget = "".join(f", {name} {count:,}" for name, count in sorted(search.budget.items()))
    return (Fact("search", dict(search.budget), f"search: score {search.score}, seed {search.seed}{budget}"),)


def data_fact(data: DataInfo | None) -> tuple[Fact, ...]:
    """The data that the policy was searched on; nothing if it is not known."""
    if data is None:
        return ()
    size = "size unknown" if data.n is None else f"{data.n:,} samples"
    return (Fact("data", data.n, f"data: {size}, {len(data.classes)} class names"),)
