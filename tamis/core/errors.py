"""The library's errors and warnings: what is wrong, what was got, what is allowed, and the cure."""

from __future__ import annotations

__all__ = ["NoEffectWarning", "NotPolarisedError", "PolicyError", "TamisError"]


class TamisError(Exception):
    """Base of every error that tamis raises on purpose (argument errors are `ValueError`/`TypeError`)."""


class PolicyError(TamisError, ValueError):
    """A policy artefact cannot be trusted or does not fit: damaged, edited, of another kind, for other data."""


class NotPolarisedError(TamisError, RuntimeError):
    """A cut was asked for while too many gates were still half open; nothing was cut."""


class NoEffectWarning(UserWarning):
    """A method ran and changed nothing (pruned nothing, uniform weights, identity policy)."""
