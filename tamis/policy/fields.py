"""A policy's fields: which go to JSON and which to the tensor file, and what makes two policies equal."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from tamis.core.short import short_repr
from tamis.policy.info import DataInfo, SearchInfo
from tamis.policy.spec import field_hints, is_tensor_hint

__all__ = ["PROVENANCE", "PolicyFields"]

#: fields that every kind has, and that do not count when two policies are compared
PROVENANCE = {"data": DataInfo | None, "search": SearchInfo | None, "made_by": dict[str, str]}


@dataclass(frozen=True, kw_only=True)
class PolicyFields:
    """The fields of `tamis.Policy`, and the rules for those that its kinds add.

    Attributes:
        kind: the name that `register_policy` gave the class.
        schema: raise it in a subclass whose fields have changed meaning, and write `migrate`.
        data: the data it was searched on, or None.
        search: how it was found, or None.
        made_by: versions of tamis and torch that wrote the file it was loaded from; empty before it is saved.
    """

    kind: ClassVar[str] = ""
    schema: ClassVar[int] = 1

    data: DataInfo | None = None
    search: SearchInfo | None = None
    made_by: dict[str, str] = field(default_factory=dict, repr=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # @dataclass would write an __eq__ that asks a tensor for its truth value, and a __repr__ that prints all of it
        for name in ("__eq__", "__hash__", "__repr__"):
            if name not in vars(cls):
                setattr(cls, name, getattr(PolicyFields, name))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = self._tensors(), other._tensors()
        return (
            all(getattr(self, name) == getattr(other, name) for name in self._spec_hints())
            and mine.keys() == theirs.keys()
            and all(_same_bits(tensor, theirs[name]) for name, tensor in mine.items())
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.schema))  # equal policies hash alike; dicts and tensors cannot be hashed

    __repr__ = short_repr

    @classmethod
    def _spec_hints(cls) -> dict[str, object]:
        """The annotations of the fields that go to JSON."""
        hints = field_hints(cls)
        return {name: hint for name, hint in hints.items() if name not in PROVENANCE and not is_tensor_hint(hint)}

    @classmethod
    def _tensor_hints(cls) -> dict[str, object]:
        """The annotations of the fields that go to the tensor file."""
        return {name: hint for name, hint in field_hints(cls).items() if is_tensor_hint(hint)}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor under ``field`` or ``field.key`` (a field's name holds no dot, a key may)."""
        named: dict[str, torch.Tensor] = {}
        for name, hint in self._tensor_hints().items():
            value = getattr(self, name)
            if hint is torch.Tensor:
                named[name] = value
            elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
                named.update({f"{name}.{key}": tensor for key, tensor in value.items()})
            else:
                raise TypeError(f"{name}={reprlib.repr(value)}: must be a dict of tensors with str keys")
        for name, tensor in named.items():
            _check_tensor(name, tensor)
        return named

    @classmethod
    def _split(cls, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The reverse of `_tensors`: values of the fields."""
        hints = cls._tensor_hints()
        fields: dict[str, Any] = {name: {} for name, hint in hints.items() if hint is not torch.Tensor}
        for full, tensor in tensors.items():
            name, dot, key = full.partition(".")
            if name not in hints or (hints[name] is torch.Tensor) is bool(dot):
                raise ValueError(f"tensors: unknown tensor {reprlib.repr(full)}; allowed: {', '.join(sorted(hints))}")
            if dot:
                fields[name][key] = tensor
            else:
                fields[name] = tensor
        if missing := hints.keys() - fields.keys():
            raise ValueError(f"tensors: missing tensor {min(missing)!r}")
        return fields


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        raise TypeError(f"{name}={reprlib.repr(value)}: must be a dense torch.Tensor")


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    flat = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)]
    return torch.equal(*flat)
