"""Where a policy comes from: the data it was searched on and the search that found it."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field

import numpy as np
import torch

from tamis.core.errors import PolicyError

__all__ = ["DataInfo", "SearchInfo", "agreeing_facts", "describe_data", "fingerprint"]


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What is known of a data set; what is not known stays at its default and is not compared.

    Attributes:
        n: number of samples, >= 0.
        classes: class names in label order (label ``i`` is ``classes[i]``).
        fingerprint: ``"sha256:..."`` as `fingerprint` gives it.
    """

    n: int | None = None
    classes: tuple[str, ...] = ()
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 0:
            raise ValueError(f"n={self.n}: must be >= 0")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: two classes have the same name; names must be distinct")
        if self.fingerprint is not None and not self.fingerprint.startswith("sha256:"):
            raise ValueError(f"fingerprint={self.fingerprint!r}: must start with 'sha256:'; use tamis.fingerprint")


@dataclass(frozen=True, kw_only=True)
class SearchInfo:
    """How a policy was found.

    Attributes:
        seed: the search's seed.
        budget: what the search cost, e.g. ``{"trials": 200, "sample_forwards": 10_000_000}`` (backward = 2).
        score: the chosen trial's objective, finite.
        config: the search's options, scalars only.
    """

    seed: int
    budget: dict[str, int] = field(default_factory=dict)
    score: float | None = None
    config: dict[str, bool | int | float | str | None] = field(default_factory=dict)


def describe_data(dataset: object) -> DataInfo:
    """Read size and class names off a data set: ``len()``, torchvision's ``classes``, datasets' `ClassLabel`.

    The fingerprint is left unknown, because it costs a pass over the data.
    """
    try:
        n = len(dataset) if isinstance(dataset, Sized) else None
    except TypeError:  # an iterable data set whose length is not known
        n = None
    classes = getattr(dataset, "classes", None)
    if classes is None:
        features = getattr(dataset, "features", None)
        labels = [feature.names for feature in features.values() if hasattr(feature, "names")] if features else []
        classes = labels[0] if len(labels) == 1 else ()
    return DataInfo(n=n, classes=tuple(str(name) for name in classes))


def agreeing_facts(caller: str, known: DataInfo | None, found: DataInfo) -> tuple[str, ...]:
    """The names of the facts that are known on both sides, all of which agree.

    Args:
        caller: begins the message.
        known: the data that a policy was searched on, if it says so.
        found: the data at hand.

    Raises:
        PolicyError: the first fact that differs.
    """
    mine, theirs = vars(known or DataInfo()), vars(found)
    compared = [name for name in ("classes", "n", "fingerprint") if mine[name] and theirs[name]]
    for name in compared:
        if mine[name] != theirs[name]:
            what = f"{name}={theirs[name]}: the policy was searched on {name}={mine[name]}"
            if name == "classes":
                what = _other_classes(mine[name], theirs[name])
            raise PolicyError(f"{caller}: {what}; search a policy for this data")
    return tuple(compared)


def _other_classes(mine: Iterable[str], theirs: Iterable[str]) -> str:
    missing, extra = sorted(set(mine) - set(theirs)), sorted(set(theirs) - set(mine))
    if not missing and not extra:
        return "classes: the same names in another order, so labels mean other classes"
    return f"classes: the data lacks {reprlib.repr(missing)} and has {reprlib.repr(extra)} besides"


def fingerprint(*parts: object) -> str:
    """``"sha256:..."`` over the shapes, dtypes and bytes of ``parts``.

    Args:
        parts: each a numpy array (numbers, bools or text), a tensor, a str, a number or None, or a list, tuple or
            mapping of such. A list of strings hashes the strings; an array and a tensor of the same dtype, shape
            and values hash alike.

    Raises:
        TypeError: a part, or an array's dtype, has no bytes of its own (e.g. ``object``).
    """
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return f"sha256:{digest.hexdigest()}"


def _feed(digest: hashlib._Hash, part: object) -> None:
    """Feed one part: a header that says type, shape and length, then the bytes, so that no two inputs run together."""
    if isinstance(part, torch.Tensor):
        tensor = part.detach().cpu().contiguous()
        name = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"array {name} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(part, (np.ndarray, np.generic)):
        array = np.asarray(part)
        if array.dtype.kind not in "biufcSUmM":
            raise TypeError(f"fingerprint: an array of {array.dtype} has no bytes of its own; give a list of str")
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).reshape(array.shape)
        digest.update(f"array {array.dtype.name} {array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    elif isinstance(part, str):
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(f"str {len(raw)};".encode() + raw)
    elif part is None or isinstance(part, (bool, int, float)):
        digest.update(f"{type(part).__name__} {part!r};".encode())
    elif isinstance(part, (list, tuple)):
        digest.update(f"list {len(part)};".encode())
        for item in part:
            _feed(digest, item)
    elif isinstance(part, Mapping):
        _feed(digest, [[str(key), part[key]] for key in sorted(part, key=str)])
    else:
        raise TypeError(
            f"fingerprint: got {type(part).__name__}; give arrays, tensors, strings, numbers or lists of these"
        )
