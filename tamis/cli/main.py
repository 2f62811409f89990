"""The ``tamis`` command: search for a policy, show it, check it against data, run a demo.

Whatever the user got wrong is one line, ``tamis: error: ...``, and exit status 2; a traceback is kept for bugs,
ours or those in the user's own objective.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tamis import __version__
from tamis.core.errors import TamisError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["main"]

# kind -> "module:function" of the search that `tamis search` runs; it takes `out` and keyword options, and returns a
# policy. One line per method.
_SEARCHES: dict[str, str] = {
    "curriculum": "tamis.search.curriculum.search:search_curriculum",
    "frames": "tamis.search.frames.search:search_frames",
    "label_aware": "tamis.search.label_aware.search:search_label_aware",
    "swift": "tamis.search.swift:search_swift",
}
_PACKAGE = Path(__file__).parents[1]


class UsageError(TamisError):
    """The command line or a file that it names is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``tamis`` command.

    Args:
        argv: the words after ``tamis``; by default those of this process.

    Returns:
        Exit status: 0, or 2 after an error of the user's making. (A wrong option exits from argparse, also with 2.)
    """
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except Exception as error:
        if not _is_the_users(error):
            raise
        print(f"tamis: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tamis", description="Learn which data is worth training on.")
    parser.add_argument("--version", action="version", version=f"tamis {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    search = commands.add_parser("search", help="search for a policy; resumes an unfinished search")
    search.add_argument("kind", metavar="KIND", help=f"one of: {_listed(_SEARCHES)}")
    search.add_argument("--config", type=Path, required=True, metavar="FILE", help="search.toml")
    search.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the search and its policy")
    search.set_defaults(run=_search)

    show = commands.add_parser("show", help="what a policy says, in words and in a picture")
    show.add_argument("policy", metavar="DIR", help="a policy's folder, or owner/name on the Hub")
    show.add_argument("--plot", type=Path, metavar="FILE", help="draw it, e.g. policy.png or policy.svg")
    show.set_defaults(run=_show)

    check = commands.add_parser("check", help="was the policy searched on this data?")
    check.add_argument("policy", metavar="DIR", help="a policy's folder, or owner/name on the Hub")
    check.add_argument("--data", type=Path, metavar="FILE", help=".csv or .parquet (size), .npy (size and fingerprint)")
    names = check.add_mutually_exclusive_group()
    names.add_argument("--label", metavar="COL", help="column whose distinct values, sorted, are the class names")
    names.add_argument("--classes", metavar="A,B,C", help="class names in label order")
    check.set_defaults(run=_check)

    demo = commands.add_parser("demo", help="train on real data with and without a method, and compare")
    demo.add_argument("method", nargs="?", default="dimreg", metavar="METHOD", help="'all', or: %(default)s (default)")
    demo.add_argument("--data", metavar="FILE", help="your own table instead of the one shipped")
    demo.add_argument("--label", metavar="COL", help="its label column")
    demo.add_argument("--out", metavar="DIR", help="where pictures and report go")
    demo.set_defaults(run=_demo)
    return parser


# ---- search


def _search(args: argparse.Namespace) -> int:
    if args.kind not in _SEARCHES:
        raise UsageError(f"KIND={args.kind!r}: cannot be searched from the shell; available: {_listed(_SEARCHES)}")
    search = _named(_SEARCHES[args.kind])
    policy = search(**_options(args.config, search), out=args.out)
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
        raise UsageError(f"{path}: must have one table, [search], got {_listed(document)}")
    options: dict[str, Any] = document["search"]
    parameters = inspect.signature(search).parameters
    allowed = sorted(parameters.keys() - {"out"})
    required = [name for name in allowed if parameters[name].default is inspect.Parameter.empty]
    for word, names in (
        ("unknown option", options.keys() - set(allowed)),
        ("missing option", set(required) - options.keys()),
    ):
        if names:
            raise UsageError(f"{path}: [search]: {word} {min(names)!r}; allowed: {_listed(allowed)}")
    sys.path.insert(0, str(path.resolve().parent))
    return {name: _imported(path, name, value) for name, value in options.items()}


def _imported(path: Path, name: str, value: Any) -> Any:
    """An option's value, its ``"module:function"`` resolved."""
    if name != "objective" and not (isinstance(value, str) and ":" in value):
        return value
    try:
        function = _named(value)
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
            f"({error}); to pass a function itself, return it: def {name}(): return {value.partition(':')[2]}"
        ) from error
    except ValueError:  # a builtin that does not tell its arguments
        pass
    return function()


def _named(path: Any) -> Callable[..., Any]:
    """The function that ``"package.module:function"`` names."""
    module, _, name = path.partition(":") if isinstance(path, str) else ("", "", "")
    function = getattr(import_module(module), name)
    if not callable(function):
        raise TypeError(f"{name} is not callable")
    return function  # type: ignore[no-any-return]


# ---- show and check


def _show(args: argparse.Namespace) -> int:
    from tamis.policy.base import load_policy

    policy = load_policy(args.policy)
    print(policy.summary())
    if args.plot is not None:
        try:
            policy.plot(args.plot)
        except (OSError, ValueError) as error:  # no such folder, or a format that matplotlib does not know
            raise UsageError(f"--plot {args.plot}: cannot be drawn ({error}); give e.g. policy.png") from error
        print(f"drawn to {args.plot}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from tamis.policy.base import DataInfo, load_policy

    policy = load_policy(args.policy)
    facts: dict[str, Any] = {}
    if args.data is not None:
        facts = _table_facts(args.data, args.label)
    elif args.label is not None:
        raise UsageError("--label: needs --data")
    if args.classes is not None:
        facts["classes"] = tuple(name.strip() for name in args.classes.split(","))
    agreed = policy.check(data=DataInfo(**facts))
    known = [] if policy.data is None else [name for name, value in vars(policy.data).items() if value]
    if not agreed:
        raise UsageError(
            f"nothing to compare: the policy records {_listed(known)}, the data gives {_listed(facts)}; "
            "give --data FILE, --label COL or --classes A,B,C"
        )
    others = set(known) - set(agreed)
    print(f"{args.policy} fits in: {', '.join(agreed)}" + (f"; not compared: {_listed(others)}" if others else ""))
    return 0


def _table_facts(path: Path, label: str | None) -> dict[str, Any]:
    """Size, and where they can be had class names and fingerprint, of a .csv, .parquet or .npy file."""
    try:
        if path.suffix == ".npy" and label is None:
            return _array_facts(path)
        if path.suffix == ".csv":
            n, values = _read_csv(path, label)
        elif path.suffix == ".parquet":
            n, values = _read_parquet(path, label)
        else:
            raise UsageError(f"--data {path}: must end in .csv, .parquet or (without --label) .npy")
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"--data {path}: cannot be read ({error})") from error
    return {"n": n} if label is None else {"n": n, "classes": tuple(sorted(values))}


def _array_facts(path: Path) -> dict[str, Any]:
    import numpy as np

    from tamis.policy.base import fingerprint

    array = np.load(path, allow_pickle=False, mmap_mode="r")
    return {"n": len(array), "fingerprint": fingerprint(array)}


def _read_csv(path: Path, label: str | None) -> tuple[int, set[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        column = header.index(_known(label, header)) if label is not None else None
        n, values = 0, set()
        for row in rows:
            n += 1
            if column is not None:
                values.add(row[column] if column < len(row) else "")
    return n, values


def _read_parquet(path: Path, label: str | None) -> tuple[int, set[str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(f"--data {path}: reading parquet needs pyarrow; pip install 'tamis[demo]'") from error
    file = parquet.ParquetFile(path)
    values: set[str] = set()
    if label is not None:
        column = file.read(columns=[_known(label, file.schema_arrow.names)]).column(0)
        values = {str(value) for value in column.unique().to_pylist()}
    return file.metadata.num_rows, values


def _known(label: str, names: Sequence[str]) -> str:
    if label not in names:
        raise UsageError(f"--label {label}: no such column; the table has {_listed(names)}")
    return label


# ---- demo


def _demo(args: argparse.Namespace) -> int:
    folder = _examples()
    methods = sorted(path.stem.removeprefix("demo_") for path in folder.glob("demo_*.py"))
    if args.method != "all" and args.method not in methods:
        raise UsageError(f"METHOD={args.method!r}: has no demo; available: {_listed(methods)}")
    if args.data is not None and not Path(args.data).is_file():
        raise UsageError(f"--data {args.data}: no such file")
    words = [
        word
        for option in ("data", "label", "out")
        if getattr(args, option) is not None
        for word in (f"--{option}", getattr(args, option))
    ]
    statuses = [_run_example(folder / f"demo_{name}.py", words) for name in methods if args.method in (name, "all")]
    return max(statuses)


def _examples() -> Path:
    """The folder of the demos: in an installed wheel inside the package, in a checkout beside it."""
    packaged = _PACKAGE / "_examples"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "examples"


def _run_example(path: Path, words: list[str]) -> int:
    """Import an example from its file, with its folder on the path for the modules beside it, and run its ``main``."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    try:
        return int(module.main(words))
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        raise UsageError(end.code) from None  # scripts say `raise SystemExit("what is wrong")`


# ---- errors


def _is_the_users(error: Exception) -> bool:
    """True for errors that tamis raises on purpose: its own types, and argument errors raised in its own files.

    A `TypeError` counts only from ``core``, where arguments are checked: elsewhere it is more likely a bug.
    """
    if isinstance(error, TamisError):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    file = Path(frame.tb_frame.f_code.co_filename) if frame is not None else Path()
    if isinstance(error, TypeError):
        return file.is_relative_to(_PACKAGE / "core")
    return isinstance(error, (ImportError, ValueError)) and file.is_relative_to(_PACKAGE)


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names))) or "none"
