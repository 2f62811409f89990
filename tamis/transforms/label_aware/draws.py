"""What `LabelAwareAugment` draws from a policy: in shared memory, so that running workers see a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tamis.transforms.images.menu import Entry, Menu, add_operation
from tamis.transforms.images.ops import ADDED, Drawn, draw
from tamis.transforms.label_aware.menu_policy import MenuPolicy
from tamis.transforms.label_aware.policy import LabelAwarePolicy

__all__ = ["Draws", "MenuDraws", "TripleDraws", "draws_of"]


class Draws:
    """The drawing side of a policy; a part of `LabelAwareAugment`'s state.

    `update` changes tensors in shared memory only. Views of them and what is derived are made by ``_build``, also
    after unpickling.
    """

    _views: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._build()

    def _build(self) -> None:
        raise NotImplementedError

    def update(self, policy: Any) -> None:
        """Draw from this policy from now on.

        Raises:
            TypeError, ValueError: it does not fit the one that this was made with.
        """
        raise NotImplementedError

    def draw(self, label: int, key: Sequence[int]) -> list[Drawn]:
        """The operations for one image: a pure function of policy, label and key."""
        raise NotImplementedError


class TripleDraws(Draws):
    """Triples of operations for each class."""

    _views = ("_rows", "_numbers")

    def __init__(self, policy: LabelAwarePolicy) -> None:
        self._triples, self._shared = policy.triples.clone(), torch.zeros(2, dtype=torch.int64)
        self._build()

    def _build(self) -> None:
        for tensor in (self._triples, self._shared):
            tensor.share_memory_()  # type: ignore[no-untyped-call]
        self._rows, self._numbers = self._triples.numpy(), self._shared.numpy()  # quick views of the same memory

    def update(self, policy: Any) -> None:
        """See `Draws.update`."""
        if not isinstance(policy, LabelAwarePolicy):
            raise TypeError(f"policy: must be a LabelAwarePolicy, got {type(policy).__name__}; make a new transform")
        count = policy.triples.shape[1]
        if count > self._triples.shape[1]:
            raise ValueError(
                f"policy: {count} triples a class: must be <= {self._triples.shape[1]}; make a new transform"
            )
        self._triples[:, :count] = policy.triples
        self._numbers[:] = count, policy.order == "drawn"

    def draw(self, label: int, key: Sequence[int]) -> list[Drawn]:
        """See `Draws.draw`."""
        count, shuffle = self._numbers
        return draw(self._rows[label, :count], key, shuffle=bool(shuffle))

    def __repr__(self) -> str:
        return f"triples={int(self._numbers[0])}"


class MenuDraws(Draws):
    """A menu with strengths for each class."""

    _views = ("_rows",)

    def __init__(self, policy: MenuPolicy) -> None:
        self._menu: Menu = policy.menu()
        self._functions = {entry.name: ADDED[entry.op] for entry in self._menu.entries if entry.op in ADDED}
        self._strengths = policy.strengths.clone()
        self._build()

    def _build(self) -> None:
        # a worker that was spawned may lack an added operation, or have it in another place
        entries = tuple(self._here(entry) for entry in self._menu.entries)
        if entries != self._menu.entries:
            self._menu = replace(self._menu, entries=entries)
        self._strengths.share_memory_()  # type: ignore[no-untyped-call]
        self._rows = self._strengths.numpy()

    def _here(self, entry: Entry) -> Entry:
        if entry.name not in self._functions:
            return entry
        return add_operation(
            entry.name, self._functions[entry.name],
            low=entry.low, high=entry.high, mirrored=entry.mirrored, group=entry.group,
        )  # fmt: skip

    def update(self, policy: Any) -> None:
        """See `Draws.update`."""
        if not isinstance(policy, MenuPolicy):
            raise TypeError(f"policy: must be a MenuPolicy, got {type(policy).__name__}; make a new transform")
        if policy.menu() != self._menu:
            raise ValueError(f"policy: its menu is not that of this transform, {self!r}; make a new transform")
        self._strengths[:] = policy.strengths

    def draw(self, label: int, key: Sequence[int]) -> list[Drawn]:
        """See `Draws.draw`."""
        return self._menu.draw(self._rows[label].tolist(), key)

    def __repr__(self) -> str:
        return f"operations={len(self._menu.entries)}"


def draws_of(policy: object) -> Draws:
    """The drawing side of a policy of either kind.

    Raises:
        TypeError: another object.
    """
    if isinstance(policy, MenuPolicy):
        return MenuDraws(policy)
    if isinstance(policy, LabelAwarePolicy):
        return TripleDraws(policy)
    raise TypeError(
        f"policy: must be a LabelAwarePolicy or a MenuPolicy, got {type(policy).__name__}; tamis.load_policy reads one"
    )
