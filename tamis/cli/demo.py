"""``tamis demo``: the examples that train on real data with and without a method."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
from pathlib import Path

from tamis.cli.errors import PACKAGE, UsageError, listed
from tamis.core.extras import missing, needs

__all__ = ["run_demo"]


def run_demo(args: argparse.Namespace) -> int:
    """``tamis demo [METHOD] [--data FILE] [--label COL] [--out DIR]``."""
    folder = _examples()
    methods = sorted(path.stem.removeprefix("demo_") for path in folder.glob("demo_*.py"))
    if args.method != "all" and args.method not in methods:
        raise UsageError(f"METHOD={args.method!r}: has no demo; available: {listed(methods)}")
    if args.data is not None and not Path(args.data).is_file():
        raise UsageError(f"--data {args.data}: no such file")
    if args.label is not None:
        _check_label(Path(args.data or folder / "data" / "adult.parquet"), args.label)
    words = [
        word
        for option in ("data", "label", "out")
        if getattr(args, option) is not None
        for word in (f"--{option}", getattr(args, option))
    ]
    statuses = [_run_example(folder / f"demo_{name}.py", words) for name in methods if args.method in (name, "all")]
    return max(statuses)


def _check_label(path: Path, label: str) -> None:
    """Refuse a label that is no column by the table's header alone, before a demo loads all it needs."""
    if path.suffix == ".parquet" and path.is_file():
        with needs("demo", "tamis demo"):
            from pyarrow import parquet

        columns = parquet.read_schema(path).names
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            columns = next(csv.reader(file), [])
    else:
        return  # the demo says what it reads
    if label not in columns:
        raise UsageError(f"--label {label}: no such column; {path.name} has {', '.join(columns)}")


def _examples() -> Path:
    """The folder of the demos: in an installed wheel inside the package, in a checkout beside it."""
    packaged = PACKAGE / "_examples"
    return packaged if packaged.is_dir() else PACKAGE.parent / "examples"


def _run_example(path: Path, words: list[str]) -> int:
    """Import an example from its file, with its folder on the path for the modules beside it, and run its ``main``."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise missing("demo", f"tamis demo {path.stem.removeprefix('demo_')}", error) from error
    try:
        return int(module.main(words))
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        raise UsageError(end.code) from None  # scripts say `raise SystemExit("what is wrong")`
