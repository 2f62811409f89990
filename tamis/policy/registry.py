"""Which class a kind of policy means: a table, so that no class path is ever read from a file."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from tamis.core.errors import PolicyError
from tamis.policy.fields import PolicyFields
from tamis.policy.spec import check_hint

__all__ = ["class_of", "register_policy"]

PolicyClass = TypeVar("PolicyClass", bound=type[PolicyFields])

# tamis' own kinds, imported when a file of that kind is loaded. One line per method.
_BUILTIN = {
    "curriculum": "tamis.samplers.curriculum.sampler:CurriculumPolicy",
    "frames": "tamis.transforms.frames.policy:FramePolicy",
    "label_aware": "tamis.transforms.label_aware.policy:LabelAwarePolicy",
    "label_aware_menu": "tamis.transforms.label_aware.menu_policy:MenuPolicy",
    "pruning_plan": "tamis.pruners.surgery.plan:PruningPlan",
    "swift": "tamis.samplers.swift.sampler:SwiftPolicy",
}
_registry: dict[str, type[PolicyFields]] = {}


def register_policy(kind: str) -> Callable[[PolicyClass], PolicyClass]:
    """Class decorator: make ``kind`` mean this class, for `Policy.save` and `load_policy`.

    Put it above ``@dataclass(frozen=True, kw_only=True)``. Registering a class again (a notebook cell, a reload) is
    fine.

    Raises:
        ValueError: ``kind`` is not lower-case letters, digits and underscores, or means another class already.
        TypeError: not a frozen dataclass derived from `Policy`, or a field's annotation cannot be stored.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", kind):
        raise ValueError(f"kind={kind!r}: must be lower-case letters, digits and underscores")

    def register(cls: PolicyClass) -> PolicyClass:
        path = f"{cls.__module__}:{cls.__qualname__}"
        params = vars(cls).get("__dataclass_params__")
        if not issubclass(cls, PolicyFields) or params is None or not params.frozen:
            raise TypeError(f"{path}: must derive from Policy and be decorated @dataclass(frozen=True, kw_only=True)")
        other = _registry.get(kind)
        taken = _BUILTIN.get(kind) or (f"{other.__module__}:{other.__qualname__}" if other else path)
        if taken != path:
            raise ValueError(f"kind={kind!r}: already means {taken}; choose another name for {path}")
        for name, hint in cls._spec_hints().items():
            check_hint(hint, f"{cls.__name__}.{name}")
        cls.kind = kind
        _registry[kind] = cls
        return cls

    return register


def class_of(kind: object, where: Path) -> type[PolicyFields]:
    """The class that ``kind`` means: registered, or one of tamis' own, imported now.

    Args:
        kind: as read from a file.
        where: that file, for the message.

    Raises:
        PolicyError: no class is registered for it.
    """
    if isinstance(kind, str) and kind not in _registry and kind in _BUILTIN:
        module = _BUILTIN[kind].partition(":")[0]
        try:
            import_module(module)
        except ImportError as error:
            raise PolicyError(f"{where}: kind={kind!r}: {module} cannot be imported ({error})") from error
    if not isinstance(kind, str) or kind not in _registry:
        known = ", ".join(sorted(_registry.keys() | _BUILTIN.keys()))
        raise PolicyError(
            f"{where}: kind={reprlib.repr(kind)}: must be one of {known}; import the module that registers it first"
        )
    return _registry[kind]
