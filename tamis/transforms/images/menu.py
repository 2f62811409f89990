"""Menus of operations with torchvision's magnitudes: RandAugment's, TrivialAugment's, and what is added to them.

E. D. Cubuk et al., "RandAugment", 2020, and S. Mueller and F. Hutter, "TrivialAugment", 2021, with the ranges of
torchvision's `v2.RandAugment` and `v2.TrivialAugmentWide`: the same values, bit for bit (float32 steps of 1/30).

Any deterministic transform with a magnitude is added by one line::

    add_operation("Blur", lambda image, sigma: F.gaussian_blur(image, 5, sigma), low=0.1, high=2.0)

**Deviation**: torchvision draws with its global generator, here a draw is a function of a key.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch

from tamis.core.checks import check_choice, check_int, check_range
from tamis.transforms.images.ops import ADDED, KERNELS, Drawn, Kernel

__all__ = ["BASES", "Entry", "Menu", "add_operation", "entry_of", "make_menu"]

STEPS = 30  # of a magnitude, from mild to full
_WORDS = struct.Struct("<16I")


class Entry(NamedTuple):
    """An operation on a menu.

    Attributes:
        name: as users know it.
        op: its place in `KERNELS`.
        group: operations that teach a model the same kind of invariance; see `search_label_aware`.
        low: magnitude at step 0, where it does least.
        high: at step 30.
        center: added to the magnitude: 1 for factors.
        scale: the magnitude is multiplied by it.
        mirrored: the magnitude's sign is drawn.
        whole: rounded to whole numbers.
    """

    name: str
    op: int
    group: str
    low: float = 0.0
    high: float = 0.0
    center: float = 0.0
    scale: float = 1.0
    mirrored: bool = False
    whole: bool = False

    @property
    def graded(self) -> bool:
        """Whether it has a magnitude."""
        return self.low != self.high

    def value(self, step: int, mirror: bool = False) -> float:
        """The magnitude at a step of 0..30, as torchvision has it."""
        return _value(self, step, mirror and self.mirrored)


@cache
def _value(entry: Entry, step: int, mirror: bool) -> float:
    if not entry.graded:
        return 0.0
    if entry.whole:  # torchvision rounds what it takes from the milder end
        return entry.low + round(step / (STEPS / (entry.high - entry.low)))
    value = entry.scale * float(torch.linspace(entry.low, entry.high, STEPS + 1)[step])
    return entry.center + (-value if mirror else value)


def _entry(name: str, kernel: str | None = None, **values: Any) -> Entry:
    return Entry(name=name, op=KERNELS.index(kernel or name), **values)


def _entries(shear: float, shift: tuple[str, float], turn: float, factor: float, bits: float) -> tuple[Entry, ...]:
    kernel, far = shift
    moved: dict[str, Any] = dict(mirrored=True, group="geometry")
    factors: dict[str, Any] = dict(high=factor, center=1.0, mirrored=True, group="colour")
    return (
        _entry("Identity", group="none"),
        _entry("ShearX", high=shear, **moved),
        _entry("ShearY", high=shear, **moved),
        _entry("TranslateX", f"{kernel}X", high=far, **moved),
        _entry("TranslateY", f"{kernel}Y", high=far, **moved),
        _entry("Rotate", high=turn, **moved),
        *(_entry(name, **factors) for name in ("Brightness", "Color", "Contrast", "Sharpness")),
        _entry("Posterize", low=8.0, high=bits, whole=True, group="colour"),
        _entry("Solarize", low=1.0, high=0.0, scale=255.0, group="inversion"),
        _entry("AutoContrast", group="colour"),
        _entry("Equalize", group="colour"),
    )


#: The operations of each base, in torchvision's order.
BASES: dict[str, tuple[Entry, ...]] = {
    "randaugment": _entries(0.3, ("Translate", 150.0 / 331.0), 30.0, 0.9, 4.0),
    "trivialaugment": _entries(0.99, ("Shift", 32.0), 135.0, 0.99, 2.0),
}
_MORE: dict[str, Entry] = {
    name: _entry(name, group=group)
    for name, group in (("HorizontalFlip", "flip"), ("VerticalFlip", "flip"), ("HalfTurn", "flip"),
                        ("Invert", "inversion"))
} | {"Cutout": _entry("Cutout", high=0.2, group="erasing")}  # fmt: skip


def add_operation(
    name: str,
    function: Kernel,
    *,
    low: float = 0.0,
    high: float = 0.0,
    mirrored: bool = False,
    group: str | None = None,
) -> Entry:
    """Make an operation that menus can have: by ``add=[name]`` in `search_label_aware` and `make_menu`.

    Args:
        name: new, or that of an operation that was added before (a notebook's cell run again).
        function: of an image and a magnitude; takes PIL images and uint8 tensors [..., C, H, W], as torchvision's
            ``v2.functional`` do, gives the same size and kind, and draws nothing at random. To reach worker
            processes that are spawned it must be importable, not a lambda.
        low: the magnitude at which it does least.
        high: at which it does most; as ``low``: it has no magnitude.
        mirrored: half of the draws have the magnitude's sign changed.
        group: operations that teach a model the same kind of invariance; default: a group of its own. tamis has
            "geometry", "colour", "inversion", "flip" and "erasing".

    Raises:
        ValueError: the name means one of tamis' own operations.
        TypeError: no function.
    """
    if not callable(function):
        raise TypeError(f"function: must be a function of an image and a magnitude, got {type(function).__name__}")
    known = _MORE.get(name)
    if name in KERNELS and (known is None or known.op not in ADDED):
        raise ValueError(f"name={name!r}: is one of tamis' own operations; choose another name")
    if known is None:
        KERNELS.append(name)
    op = KERNELS.index(name)
    ADDED[op] = function
    group = name.lower() if group is None else group
    _MORE[name] = Entry(name, op, group, float(low), float(high), mirrored=mirrored)
    return _MORE[name]


def entry_of(name: str) -> Entry:
    """An operation that can be added to a base.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _MORE:
        raise ValueError(
            f"operation {name!r}: must be one of {', '.join(_MORE)}; bring another one with add_operation(...) first"
        )
    return _MORE[name]


@dataclass(frozen=True)
class Menu:
    """Operations to draw from, and how.

    Attributes:
        entries: the operations; "Identity" first.
        chances: for each entry the chance that it is applied by itself, before the others; 0: it is drawn from the
            menu like the base's own.
        count: operations drawn from the menu, one after another, with repetition.
        step: their magnitude, 0..30; None: drawn anew each time, uniformly.
    """

    entries: tuple[Entry, ...]
    chances: tuple[float, ...]
    count: int
    step: int | None
    _apart: tuple[int, ...] = field(init=False)
    _drawn: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_apart", tuple(at for at, chance in enumerate(self.chances) if chance > 0))
        object.__setattr__(self, "_drawn", tuple(at for at, chance in enumerate(self.chances) if chance == 0))

    @property
    def names(self) -> tuple[str, ...]:
        """The entries' names."""
        return tuple(entry.name for entry in self.entries)

    @property
    def own(self) -> int:
        """How many of the entries are the base's: the first ones."""
        return len(BASES["randaugment"])

    def full_step(self, at: int) -> int:
        """The greatest step at which an entry is applied, 0..30."""
        return self.step if self.step is not None and at < self.own else STEPS

    def draw(self, strengths: Sequence[float], key: Sequence[int]) -> list[Drawn]:
        """What is done to one image: a pure function of ``key``.

        Args:
            strengths: for each entry 0 (never) to 1 (up to its full magnitude).
            key: integers that name the draw, e.g. (seed, epoch, index, copy), each in [0, 2**63).

        Returns:
            As many operations for every key; Identity fills the gaps.
        """
        words = _stream(key)
        found = []
        for at in self._apart:
            happens = next(words) < self.chances[at] * 2**32
            found.append(self._one(at if happens and strengths[at] > 0 else 0, strengths[at], words))
        allowed = [at for at in self._drawn if strengths[at] > 0]
        for _ in range(self.count):
            at = allowed[(next(words) * len(allowed)) >> 32]
            found.append(self._one(at, strengths[at], words))
        return found

    def _one(self, at: int, strength: float, words: Iterator[int]) -> Drawn:
        entry, level, where, down = self.entries[at], next(words), next(words), next(words)
        step = (
            self.step
            if self.step is not None and at < len(BASES["randaugment"])
            else ((level >> 1) * (STEPS + 1)) >> 31
        )
        return Drawn(entry.op, 0, where / 2**32, down / 2**32, entry.value(round(step * strength), bool(level & 1)))


def _stream(key: Sequence[int]) -> Iterator[int]:
    """Endless 32-bit words, a function of ``key``."""
    packed, number = struct.pack(f"<{len(key)}q", *key), 0
    while True:
        yield from _WORDS.unpack(hashlib.blake2b(packed, digest_size=64, salt=struct.pack("<Q", number)).digest())
        number += 1


def make_menu(
    base: str, add: Sequence[str] | Mapping[str, float] = (), *, operations: int = 2, magnitude: int = 9
) -> Menu:
    """A base's menu and what is added to it.

    Args:
        base: ``"randaugment"``: ``operations`` of one magnitude; ``"trivialaugment"``: one, of any magnitude.
        add: names of more operations, which are drawn like the base's own; or a mapping from name to the chance in
            (0, 1] that it is applied by itself, before the others, as pipelines have their flips.
        operations: of RandAugment, >= 1.
        magnitude: of RandAugment, 0..30.
    """
    check_choice("base", base, tuple(BASES))
    check_int("operations", operations, low=1)
    check_int("magnitude", magnitude, low=0, high=STEPS)
    chances = dict(add) if isinstance(add, Mapping) else dict.fromkeys([add] if isinstance(add, str) else add, 0.0)
    own = BASES[base]
    for name, chance in chances.items():
        if name in {entry.name for entry in own}:
            raise ValueError(f"add: {name!r} is on the menu of {base} already")
        if isinstance(add, Mapping):
            check_range(f"add[{name!r}]", chance, low=0, high=1)
    random = base == "randaugment"
    return Menu(
        entries=own + tuple(entry_of(name) for name in chances),
        chances=(0.0,) * len(own) + tuple(float(chance) for chance in chances.values()),
        count=operations if random else 1,
        step=magnitude if random else None,
    )
