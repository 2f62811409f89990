"""The policy: what a search found, as a folder that can be reviewed in a diff, trusted on load, and shared.

A kind of policy is a frozen dataclass that derives from `Policy`; its fields are the artefact:

    @register_policy("pruning_plan")
    @dataclass(frozen=True, kw_only=True)
    class PruningPlan(Policy):
        tables: dict[str, int]             # goes to policy.json
        kept: dict[str, torch.Tensor]      # goes to the safetensors file

`policy_spec` turns fields into JSON and back, `policy_io` writes and reads the two files, and this module joins
them: which class a kind means, which schema it is, and that everything wrong comes out as `PolicyError`.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from tamis.core.errors import PolicyError
from tamis.core.short import short_repr
from tamis.core.version import __version__
from tamis.policy.hub import HubMethods
from tamis.policy.info import DataInfo, SearchInfo, describe_data, fingerprint
from tamis.policy.io import JSON_FILE, read_document, read_tensors, write_artefact
from tamis.policy.spec import check_hint, convert, convert_fields, field_hints, is_tensor_hint

__all__ = ["DataInfo", "Policy", "PolicyError", "SearchInfo", "fingerprint", "load_policy", "register_policy"]

AnyPolicy = TypeVar("AnyPolicy", bound="Policy")
PolicyClass = TypeVar("PolicyClass", bound="type[Policy]")

# tamis' own kinds, imported when a file of that kind is loaded. One line per method.
_BUILTIN = {
    "curriculum": "tamis.samplers.curriculum.sampler:CurriculumPolicy",
    "frames": "tamis.transforms.frames.policy:FramePolicy",
    "label_aware": "tamis.transforms.label_aware.policy:LabelAwarePolicy",
    "pruning_plan": "tamis.pruners.surgery.plan:PruningPlan",
    "swift": "tamis.samplers.swift.sampler:SwiftPolicy",
}
_registry: dict[str, type[Policy]] = {}
_PROVENANCE = {"data": DataInfo | None, "search": SearchInfo | None, "made_by": dict[str, str]}


@dataclass(frozen=True, kw_only=True)
class Policy(HubMethods):
    """Base of every kind of policy.

    Subclasses are ``@dataclass(frozen=True, kw_only=True)``, registered with `register_policy`, and check their
    values in ``__post_init__`` with `ValueError` or `TypeError` (on load these become `PolicyError`). Two policies
    are equal if they are of one class and their spec and tensors are equal bit for bit, wherever they come from.

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
                setattr(cls, name, getattr(Policy, name))

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

    # ---- files

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the policy into ``folder`` (made if needed): the old policy there, if any, or the new, never a mixture.

        Raises:
            PolicyError: a field's value is not what its annotation says, or too large for the format.
            OSError: the folder cannot be written.
        """
        if not self.kind:
            raise PolicyError(f"{type(self).__name__}: has no kind; decorate the class with @register_policy('...')")
        made_by = {"tamis": __version__, "torch": torch.__version__}
        try:
            spec = {name: getattr(self, name) for name in self._spec_hints()}
            document = {
                "kind": self.kind,
                "schema": self.schema,
                "spec": convert_fields(spec, self._spec_hints(), "spec", loading=False),
                "data": convert(self.data, _PROVENANCE["data"], "data", loading=False),
                "search": convert(self.search, _PROVENANCE["search"], "search", loading=False),
                "made_by": made_by,
            }
            tensors = self._tensors()
        except (TypeError, ValueError) as error:
            raise PolicyError(f"{type(self).__name__} cannot be saved: {error}") from error
        write_artefact(Path(folder), document, tensors)

    @classmethod
    def load(cls: type[AnyPolicy], folder: str | os.PathLike[str], *, allow_edited: bool = False) -> AnyPolicy:
        """Read a policy of this class from ``folder``; `Policy.load` reads any kind.

        Args:
            folder: as `save` wrote it.
            allow_edited: accept a ``policy.json`` that was changed by hand; its values are checked all the same.

        Raises:
            PolicyError: whatever is wrong with the files, and nothing else.
        """
        return cls._load(Path(folder), allow_edited=allow_edited, follow_links=False)

    @classmethod
    def migrate(
        cls, spec: dict[str, Any], tensors: dict[str, torch.Tensor], schema: int
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Bring JSON values and tensors of an older ``schema`` to this class's; override it when you raise `schema`."""
        raise PolicyError(f"schema={schema}: {cls.__name__} reads only schema {cls.schema}; search again, or use the "
                          "release of tamis that wrote the file")  # fmt: skip

    @classmethod
    def _load(cls: type[AnyPolicy], folder: Path, *, allow_edited: bool, follow_links: bool) -> AnyPolicy:
        where = folder / JSON_FILE
        document = read_document(folder, allow_edited=allow_edited, follow_links=follow_links)
        found = _class_of(document["kind"], where)
        if not issubclass(found, cls):
            raise PolicyError(
                f"{where}: kind={found.kind!r}: {cls.__name__}.load reads {cls.kind!r}; use tamis.load_policy"
            )
        schema = document["schema"]
        if type(schema) is not int or not 1 <= schema <= found.schema:
            raise PolicyError(
                f"{where}: schema={reprlib.repr(schema)}: this release of tamis reads {found.kind!r} up to schema "
                f"{found.schema}; upgrade tamis"
            )
        tensors = read_tensors(folder, document["tensors"], follow_links=follow_links)
        try:
            spec = document["spec"]
            if schema < found.schema:
                spec, tensors = found.migrate(spec, tensors, schema)
            values = convert_fields(spec, found._spec_hints(), "spec", loading=True)
            for name, hint in _PROVENANCE.items():
                values[name] = convert(document[name], hint, name, loading=True)
            return found(**values, **found._split(tensors))
        except Exception as error:  # a damaged value can make a subclass's own checks fail in any way
            raise PolicyError(
                f"{where}: {error if isinstance(error, (TypeError, ValueError)) else repr(error)}; the values do not "
                f"make a {found.__name__}; restore the file or save the policy again"
            ) from error

    # ---- use

    def check(self, subject: Any, /) -> tuple[str, ...]:
        """Compare the data the policy was searched on with ``subject``; kinds that fit a model override this.

        Args:
            subject: a data set (`describe_data` reads its size and class names) or a `DataInfo`.

        Returns:
            The names of the facts that were known on both sides, and agree. An empty tuple means that nothing was
            compared: the policy has no ``data``, or ``subject`` has neither a length nor class names.

        Raises:
            PolicyError: the first fact that differs.
        """
        found = subject if isinstance(subject, DataInfo) else describe_data(subject)
        known = self.data or DataInfo()
        compared = [name for name in ("classes", "n", "fingerprint") if getattr(known, name) and getattr(found, name)]
        for name in compared:
            mine, theirs = getattr(known, name), getattr(found, name)
            if mine != theirs:
                raise PolicyError(
                    f"{self.kind}.check: {_difference(name, mine, theirs)}; search a policy for this data"
                )
        return tuple(compared)

    def summary(self) -> str:
        """A few lines in words: kind, search, data and every field; kinds override or extend it."""
        lines = [f"{self.kind} policy (schema {self.schema})"]
        if self.search is not None:
            budget = ", ".join(f"{name} {count:,}" for name, count in sorted(self.search.budget.items()))
            lines.append(f"  search: score {self.search.score}, seed {self.search.seed}{budget and ', ' + budget}")
        if self.data is not None:
            size = "size unknown" if self.data.n is None else f"{self.data.n:,} samples"
            lines.append(f"  data: {size}, {len(self.data.classes)} class names")
        lines += [f"  {name}: {reprlib.repr(getattr(self, name))}" for name in self._spec_hints()]
        for name, tensor in sorted(self._tensors().items()):
            lines.append(f"  {name}: {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}")
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """A matplotlib `Figure` of the policy, written to ``path`` if given (the ending chooses the format).

        Raises:
            ImportError: matplotlib is not installed.
            PolicyError: the kind has nothing to draw.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("plot: needs matplotlib; pip install 'tamis[plot]'") from error
        figure = Figure(figsize=(8, 5), layout="constrained")  # not pyplot: no global state, no window
        self.draw(figure)
        if path is not None:
            figure.savefig(path)
        return figure

    def draw(self, figure: Any) -> None:
        """Draw into an empty `Figure`. By default one curve per tensor; kinds override it.

        Raises:
            PolicyError: no tensors.
        """
        tensors = {name: t for name, t in sorted(self._tensors().items()) if t.numel() and not t.is_complex()}
        if not tensors:
            raise PolicyError(f"{self.kind}.plot: this kind has nothing to draw; see summary()")
        axes = figure.subplots()
        for name, tensor in tensors.items():
            axes.plot(tensor.detach().cpu().double().flatten().numpy(), label=name)
        axes.set(title=self.kind, xlabel="index", ylabel="value")
        axes.legend()

    # ---- fields

    @classmethod
    def _spec_hints(cls) -> dict[str, Any]:
        hints = field_hints(cls)
        return {name: hint for name, hint in hints.items() if name not in _PROVENANCE and not is_tensor_hint(hint)}

    @classmethod
    def _tensor_hints(cls) -> dict[str, Any]:
        return {name: hint for name, hint in field_hints(cls).items() if is_tensor_hint(hint)}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor under ``field`` or ``field.key`` (a field's name holds no dot, a key may)."""
        named: dict[Any, Any] = {}
        for name, hint in self._tensor_hints().items():
            value = getattr(self, name)
            if hint is torch.Tensor:
                named[name] = value
            elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
                named.update({f"{name}.{key}": tensor for key, tensor in value.items()})
            else:
                raise TypeError(f"{name}={reprlib.repr(value)}: must be a dict of tensors with str keys")
        for name, tensor in named.items():
            if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
                raise TypeError(f"{name}={reprlib.repr(tensor)}: must be a dense torch.Tensor")
        return named

    @classmethod
    def _split(cls, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """The reverse of `_tensors`."""
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
        if not issubclass(cls, Policy) or params is None or not params.frozen:
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


def load_policy(folder_or_hub_id: str | os.PathLike[str], *, allow_edited: bool = False) -> Policy:
    """Load a policy of any kind from a folder, or from the Hub if there is no such folder and it reads "owner/name".

    Args:
        folder_or_hub_id: e.g. ``"runs/swift"`` or ``"me/la3-cifar10"``.
        allow_edited: as `Policy.load`; folders only.

    Raises:
        PolicyError: whatever is wrong with it, and nothing else.
    """
    if allow_edited:
        return Policy.load(folder_or_hub_id, allow_edited=True)
    return Policy.from_pretrained(folder_or_hub_id)


def _class_of(kind: Any, where: Path) -> type[Policy]:
    """The class that ``kind`` means: registered, or one of tamis' own, imported now."""
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


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    flat = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)]
    return torch.equal(*flat)


def _difference(name: str, mine: Any, theirs: Any) -> str:
    if name != "classes":
        return f"{name}={theirs}: the policy was searched on {name}={mine}"
    missing, extra = sorted(set(mine) - set(theirs)), sorted(set(theirs) - set(mine))
    if not missing and not extra:
        return "classes: the same names in another order, so labels mean other classes"
    return f"classes: the data lacks {reprlib.repr(missing)} and has {reprlib.repr(extra)} besides"
