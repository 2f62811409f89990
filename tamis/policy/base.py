"""The policy: what a search found, as a folder that can be reviewed in a diff, trusted on load, and shared.

A kind of policy is a frozen dataclass that derives from `Policy`; its fields are the artefact:

    @register_policy("pruning_plan")
    @dataclass(frozen=True, kw_only=True)
    class PruningPlan(Policy):
        tables: dict[str, int]             # goes to policy.json
        kept: dict[str, torch.Tensor]      # goes to the safetensors file

`fields` says which field goes where, `spec` turns fields into JSON and back, `io` writes and reads the two files,
`registry` knows which class a kind means. This module joins them: everything wrong comes out as `PolicyError`.
"""

from __future__ import annotations

import reprlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from tamis.core.errors import PolicyError
from tamis.core.figures import blank_figure
from tamis.core.types import Figure, PathOrStr
from tamis.core.version import __version__
from tamis.policy.facts import Fact, Facts, data_fact, search_fact
from tamis.policy.fields import PROVENANCE, PolicyFields
from tamis.policy.hub import HubMethods
from tamis.policy.info import DataInfo, SearchInfo, agreeing_facts, describe_data, fingerprint
from tamis.policy.io import JSON_FILE, read_document, read_tensors, write_artefact
from tamis.policy.registry import class_of, register_policy
from tamis.policy.spec import convert, convert_fields

__all__ = ["DataInfo", "Policy", "PolicyError", "SearchInfo", "fingerprint", "load_policy", "register_policy"]

AnyPolicy = TypeVar("AnyPolicy", bound="Policy")


@dataclass(frozen=True, kw_only=True)
class Policy(PolicyFields, HubMethods):
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

    # ---- files

    def save(self, folder: PathOrStr) -> None:
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
                "data": convert(self.data, PROVENANCE["data"], "data", loading=False),
                "search": convert(self.search, PROVENANCE["search"], "search", loading=False),
                "made_by": made_by,
            }
            tensors = self._tensors()
        except (TypeError, ValueError) as error:
            raise PolicyError(f"{type(self).__name__} cannot be saved: {error}") from error
        write_artefact(Path(folder), document, tensors)

    @classmethod
    def load(cls: type[AnyPolicy], folder: PathOrStr, *, allow_edited: bool = False) -> AnyPolicy:
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
        """Bring what an older release wrote to this class's schema; override it when you raise `schema`.

        Args:
            spec: JSON values of the fields, as they were written.
            tensors: by ``field`` or ``field.key``, as they were written.
            schema: the schema that they were written under, < the class's.

        Returns:
            ``spec`` and ``tensors`` as the class would write them now.

        Raises:
            PolicyError: the class reads only its own schema.
        """
        raise PolicyError(f"schema={schema}: {cls.__name__} reads only schema {cls.schema}; search again, or use the "
                          "release of tamis that wrote the file")  # fmt: skip

    @classmethod
    def _load(cls: type[AnyPolicy], folder: Path, *, allow_edited: bool, follow_links: bool) -> AnyPolicy:
        where = folder / JSON_FILE
        document = read_document(folder, allow_edited=allow_edited, follow_links=follow_links)
        found = class_of(document["kind"], where)
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
            for name, hint in PROVENANCE.items():
                values[name] = convert(document[name], hint, name, loading=True)
            return found(**values, **found._split(tensors))
        except Exception as error:  # a damaged value can make a subclass's own checks fail in any way
            raise PolicyError(
                f"{where}: {error if isinstance(error, (TypeError, ValueError)) else repr(error)}; the values do not "
                f"make a {found.__name__}; restore the file or save the policy again"
            ) from error

    # ---- use

    def check(self, subject: object = None, /, *, data: object = None) -> tuple[str, ...]:
        """Compare the data that the policy was searched on with yours; some kinds can check more than data.

        Args:
            subject: the old, positional spelling of what is checked now by keyword.
            data: a data set (`describe_data` reads its size and class names) or a `DataInfo`.

        Returns:
            The names of the facts that were known on both sides, and agree. An empty tuple means that nothing was
            compared: the policy has no ``data``, or yours has neither a length nor class names.

        Raises:
            PolicyError: the first fact that differs.
            TypeError: nothing to check was given.

        Warns:
            FutureWarning: the positional spelling was used.
        """
        found = self._keyword("data", subject, data)
        return agreeing_facts(
            f"{self.kind}.check", self.data, found if isinstance(found, DataInfo) else describe_data(found)
        )

    def _keyword(self, name: str, positional: object, given: object) -> object:
        """What `check` was given as ``name=``, or by the old, positional spelling, of which it warns."""
        if positional is None and given is None:
            raise TypeError(f"{self.kind}.check: nothing to check; write check({name}=...)")
        if positional is None:
            return given
        message = f"{self.kind}.check(x) must say what x is: write check({name}=x)"
        warnings.warn(message, FutureWarning, stacklevel=3)
        return positional

    def facts(self) -> Facts:
        """What the policy says, as data: every field, its search and its data; kinds override it."""
        rows = [Fact(name, repr(value), f"{name}: {reprlib.repr(value)}")
                for name in self._spec_hints() for value in [getattr(self, name)]]  # fmt: skip
        for name, tensor in sorted(self._tensors().items()):
            form = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            rows.append(Fact(name, fingerprint(tensor), f"{name}: {form}"))
        return Facts(
            title=f"{self.kind} policy (schema {self.schema})",
            rows=tuple(rows),
            provenance=search_fact(self.search) + data_fact(self.data),
        )

    def summary(self) -> str:
        """The policy in a few lines of words."""
        return str(self.facts())

    def diff(self, other: Policy) -> str:
        """What ``other`` says differently, one line for each fact.

        Raises:
            PolicyError: a policy of another kind.
        """
        if other.kind != self.kind:
            raise PolicyError(f"{self.kind}.diff: must be a policy of this kind, got {other.kind!r}")
        lines = [f"{name}: {mine} -> {theirs}" for name, mine, theirs in self.facts().differences(other.facts())]
        return "\n".join(lines) or "the two policies say the same"

    def plot(self, path: PathOrStr | None = None) -> Figure:
        """A matplotlib `Figure` of the policy.

        Args:
            path: also write it there; the ending chooses the format.

        Raises:
            ImportError: matplotlib is not installed.
            PolicyError: the kind has nothing to draw.
        """
        figure = blank_figure(8, 5)
        self.draw(figure)
        if path is not None:
            figure.savefig(path)
        return figure

    def draw(self, figure: Figure) -> None:
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


def load_policy(folder_or_hub_id: PathOrStr, *, allow_edited: bool = False) -> Policy:
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
