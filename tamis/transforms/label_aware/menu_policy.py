"""A base augmentation with vetoes: for each class, which operations it must not get, and how strong the others are.

Found by `tamis.search.search_label_aware`, applied by `tamis.transforms.LabelAwareAugment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tamis.core.checks import check_choice
from tamis.core.errors import PolicyError
from tamis.core.types import Figure
from tamis.policy.base import DataInfo, Policy, register_policy
from tamis.policy.facts import Facts
from tamis.transforms.images.menu import BASES, Menu, make_menu
from tamis.transforms.label_aware.menu_plot import draw_menu
from tamis.transforms.label_aware.menu_words import menu_facts

__all__ = ["MenuPolicy"]


@register_policy("label_aware_menu")
@dataclass(frozen=True, kw_only=True)
class MenuPolicy(Policy):
    """A menu of operations, and each class' own strengths.

    Attributes:
        classes: class names in label order: label i is ``classes[i]``.
        base: ``"randaugment"`` or ``"trivialaugment"``.
        strengths: float32 [L, M] in [0, 1], a column for each of `names`: 1 is the operation as the base has it, 0
            means that the class never gets it, between them its magnitude is that share of the base's.
        added: operations beside the base's own.
        chances: for each of these the chance that it is applied by itself, before the base's; 0: it is drawn like
            the base's own.
        operations: drawn for an image, of RandAugment.
        magnitude: of RandAugment, 0..30.
        harms: float32 [L, M]: the share of its probability that a class loses under an operation of full strength, as
            judges see it (for the base's own operations: beyond what it costs the classes that it suits best); NaN
            where none judged. Empty if not known.
        doubts: float32 [L, M]: how likely such a harm is to be chance, as false discoveries are counted; 1 where
            none judged. Empty if not known.
        images: int64 [L]: images of each class that judged. Empty if not known.
    """

    classes: tuple[str, ...]
    base: str
    strengths: Tensor
    added: tuple[str, ...] = ()
    chances: tuple[float, ...] = ()
    operations: int = 2
    magnitude: int = 9
    harms: Tensor = field(default_factory=lambda: torch.zeros(0))
    doubts: Tensor = field(default_factory=lambda: torch.zeros(0))
    images: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        check_choice("base", self.base, tuple(BASES))
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: must be at least one name, all distinct")
        if len(self.added) != len(self.chances):
            raise ValueError(f"chances: {len(self.chances)} for {len(self.added)} added operations: must be as many")
        shape = (len(self.classes), len(self.names))
        for name in ("strengths", "harms", "doubts"):
            tensor, needed = getattr(self, name), name == "strengths"
            fits = tuple(tensor.shape) == shape or (not needed and tensor.numel() == 0)
            if tensor.dtype != torch.float32 or not fits:
                raise ValueError(f"{name}: must be float32 {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")
        if not bool(((self.strengths >= 0) & (self.strengths <= 1)).all()):
            raise ValueError("strengths: must lie in [0, 1]")
        if not bool((self.strengths[:, 0] > 0).all()):
            raise ValueError("strengths: Identity, the first operation, must stay with every class")
        if self.images.numel() and tuple(self.images.shape) != shape[:1]:
            raise ValueError(f"images: must be int64 [{shape[0]}], got {list(self.images.shape)}")
        if self.data is None:
            object.__setattr__(self, "data", DataInfo(classes=self.classes))
        elif self.data.classes != self.classes:
            raise ValueError("data.classes: must be the policy's classes")

    @classmethod
    def plain(
        cls,
        classes: Sequence[str],
        base: str = "randaugment",
        *,
        add: Sequence[str] | Mapping[str, float] = (),
        without: Sequence[str] = (),
        operations: int = 2,
        magnitude: int = 9,
    ) -> MenuPolicy:
        """A menu that is the same for every class, e.g. to train a judge with.

        Args:
            classes: class names in label order.
            base: ``"randaugment"`` or ``"trivialaugment"``.
            add: as `make_menu`.
            without: operations, or groups of them, that no class gets.
            operations: as `make_menu`.
            magnitude: as `make_menu`.

        Raises:
            ValueError: ``without`` names nothing on the menu.
        """
        menu = make_menu(base, add, operations=operations, magnitude=magnitude)
        known = {word for entry in menu.entries[1:] for word in (entry.name, entry.group)}
        if not set(without) <= known:
            raise ValueError(f"without={sorted(set(without) - known)}: must be among {', '.join(sorted(known))}")
        row = [float(entry.name not in without and entry.group not in without) for entry in menu.entries]
        return cls(
            classes=tuple(classes), base=base, strengths=torch.tensor(row).repeat(len(classes), 1),
            added=menu.names[menu.own :], chances=menu.chances[menu.own :], operations=operations, magnitude=magnitude,
        )  # fmt: skip

    @property
    def names(self) -> tuple[str, ...]:
        """The operations' names: the base's, then those added."""
        return (*(entry.name for entry in BASES[self.base]), *self.added)

    @property
    def changes_nothing(self) -> bool:
        """True if no class gets an operation but Identity."""
        return bool((self.strengths[:, 1:] == 0).all())

    @property
    def judged(self) -> np.ndarray:
        """Which operations were judged: bool [M]."""
        if self.harms.numel() == 0:
            return np.zeros(len(self.names), dtype=bool)
        found: np.ndarray = (~torch.isnan(self.harms)).any(0).numpy()
        return found

    def menu(self) -> Menu:
        """What `LabelAwareAugment` draws from.

        Raises:
            ValueError: an added operation is not known here; bring it with `add_operation` first.
        """
        added = dict(zip(self.added, self.chances, strict=True))
        return make_menu(self.base, added, operations=self.operations, magnitude=self.magnitude)

    def facts(self) -> Facts:
        """What each class must not get and how sure that is, the most special classes first."""
        return menu_facts(self)

    def diff(self, other: Policy) -> str:
        """What ``other`` does differently, one line for each class that changed.

        Raises:
            PolicyError: a policy of another kind, for other classes, or on another menu.
        """
        if not isinstance(other, MenuPolicy) or other.names != self.names:
            raise PolicyError("label_aware_menu.diff: must be a policy of this kind on the same menu")
        self.check(data=DataInfo(classes=other.classes))
        lines = []
        for name, mine, theirs in zip(self.classes, self.strengths, other.strengths, strict=True):
            changed = torch.nonzero(mine != theirs).flatten().tolist()
            if changed:
                words = (f"{self.names[at]} {mine[at]:.2g} -> {theirs[at]:.2g}" for at in changed)
                lines.append(f"{name}: " + ", ".join(words))
        return "\n".join(lines) or "no class has another strength of any operation"

    def draw(self, figure: Figure) -> None:
        """The most special classes and their vetoes; beside it, how many of all classes each operation is kept from."""
        draw_menu(self, figure)
