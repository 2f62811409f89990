"""Reprs that fit a line or two: tensors by dtype and shape, long texts and collections cut."""

from __future__ import annotations

import reprlib
from dataclasses import fields
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["short", "short_repr"]


class _Short(reprlib.Repr):
    def repr_Tensor(self, tensor: torch.Tensor, level: int) -> str:  # reprlib calls a method by the type's name
        return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


_short = _Short()
_short.maxother = _short.maxstring = 60
_short.maxdict = 6


def short(value: object) -> str:
    """``value`` in a few words."""
    return " ".join(_short.repr(value).split())


def short_repr(self: DataclassInstance) -> str:
    """A ``__repr__`` for dataclasses; fields that are None are left out."""
    values = {field.name: getattr(self, field.name) for field in fields(self) if field.repr}
    shown = ", ".join(f"{name}={short(value)}" for name, value in values.items() if value is not None)
    return f"{type(self).__name__}({shown})"
