"""The ``tamis`` command: search for a policy, show it, check it against data, run a demo.

Whatever the user got wrong is one line, ``tamis: error: ...``, and exit status 2; a traceback is kept for bugs,
ours or those in the user's own objective. Torch is imported by the commands that need it, not by ``--help``.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tamis.cli.demo import run_demo
from tamis.cli.errors import UsageError, is_the_users, listed
from tamis.cli.search import SEARCHES, run_search
from tamis.core.version import __version__

if TYPE_CHECKING:
    from tamis.policy import DataInfo

__all__ = ["main"]


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
        if not is_the_users(error):
            raise
        print(f"tamis: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tamis", description="Learn which data is worth training on.")
    parser.add_argument("--version", action="version", version=f"tamis {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    search = commands.add_parser("search", help="search for a policy; resumes an unfinished search")
    search.add_argument("kind", metavar="KIND", help=f"one of: {listed(SEARCHES)}")
    search.add_argument("--config", type=Path, required=True, metavar="FILE", help="search.toml")
    search.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the search and its policy")
    search.set_defaults(run=run_search)

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
    demo.set_defaults(run=run_demo)
    return parser


def _show(args: argparse.Namespace) -> int:
    from tamis.policy import load_policy

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
    from tamis.cli.data import describe_file
    from tamis.policy import DataInfo, load_policy

    policy = load_policy(args.policy)
    found = DataInfo()
    if args.data is not None:
        found = describe_file(args.data, args.label)
    elif args.label is not None:
        raise UsageError("--label: needs --data")
    if args.classes is not None:
        found = dataclasses.replace(found, classes=tuple(name.strip() for name in args.classes.split(",")))
    agreed = policy.check(data=found)
    known, given = _known(policy.data), _known(found)
    if not agreed:
        raise UsageError(
            f"nothing to compare: the policy records {listed(known)}, the data gives {listed(given)}; "
            "give --data FILE, --label COL or --classes A,B,C"
        )
    others = set(known) - set(agreed)
    print(f"{args.policy} fits in: {', '.join(agreed)}" + (f"; not compared: {listed(others)}" if others else ""))
    return 0


def _known(data: DataInfo | None) -> list[str]:
    """The names of what is known of the data."""
    return [] if data is None else [name for name, value in vars(data).items() if value]
