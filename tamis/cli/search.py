"""``tamis search``: the searches that run from a TOML file."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.cli.errors import UsageError, listed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from tamis.policy import Policy

__all__ = ["SEARCHES", "named", "run_search"]

#: kind -> "module:function"; the function takes ``out`` and keyword options, and returns a policy. One line per kind.
SEARCHES = {
    "curriculum": "tamis.search.curriculum.search:search_curriculum",
    "frames": "tamis.search.frames.search:search_frames",
    "label_aware": "tamis.search.label_aware.search:search_label_aware",
    "swift": "tamis.search.swift:search_swift",
}


def run_search(args: argparse.Namespace) -> int:
    """``tamis search KIND --config FILE --out DIR``."""
    if args.kind not in SEARCHES:
        raise UsageError(f"KIND={args.kind!r}: cannot be searched from the shell; available: {listed(SEARCHES)}")
    search = named(SEARCHES[args.kind])
    policy: Policy = search(**_options(args.config, search), out=args.out)
    print(policy.summary())
    print(f"policy in {args.out}: tamis.load_policy({str(args.out)!r})")
    weights = args.out / "model.safetensors"
    if weights.exists():  # of a search that trains the model too
        print(f"trained weights in {weights}: safetensors.torch.load_model(model, {str(weights)!r})")
    return 0


def _options(path: Path, search: Callable[..., Any]) -> dict[str, Any]:
    """The keyword arguments that ``search.toml`` gives to ``search``, with the user's own objects imported.

    ``objective = "module:function"`` is passed as it is; any other ``"module:function"`` is called, and what it
    returns is passed (a model, features, data). Modules are looked for beside the file first.

    Raises:
        UsageError: not readable, or its keys are not the function's arguments.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise UsageError(f"{path}: cannot be read as TOML ({error})") from error
    if document.keys() != {"search"} or not isinstance(document["search"], dict):
        raise UsageError(f"{path}: must have one table, [search], got {listed(document)}")
    options: dict[str, Any] = document["search"]
    parameters = inspect.signature(search).parameters
    allowed = sorted(parameters.keys() - {"out"})
    required = [name for name in allowed if parameters[name].default is inspect.Parameter.empty]
    for word, names in (
        ("unknown option", options.keys() - set(allowed)),
        ("missing option", set(required) - options.keys()),
    ):
        if names:
            raise UsageError(f"{path}: [search]: {word} {min(names)!r}; allowed: {listed(allowed)}")
    sys.path.insert(0, str(path.resolve().parent))
    return {name: _imported(path, name, value) for name, value in options.items()}


def _imported(path: Path, name: str, value: object) -> object:
    """An option's value, its ``"module:function"`` resolved."""
    if name != "objective" and not (isinstance(value, str) and ":" in value):
        return value
    try:
        function = named(value)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: [search]: {name}={value!r}: must name a function as 'package.module:function' ({error})"
        ) from error
    if name == "objective":
        return function
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UsageError(
            f"{path}: [search]: {name}={value!r}: must name a function without arguments that returns the {name} "
            f"({error}); to pass a function itself, return it: def {name}(): return {str(value).partition(':')[2]}"
        ) from error
    except ValueError:  # a builtin that does not tell its arguments
        pass
    return function()


def named(path: object) -> Callable[..., Any]:
    """The function that ``"package.module:function"`` names."""
    module, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    function: Callable[..., Any] = getattr(import_module(module), name)
    if not callable(function):
        raise TypeError(f"{name} is not callable")
    return function
