"""The house rules that a reader relies on: import floors, quick imports, files that fit a screen or three."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tamis"

FLOORS = {
    "_core": 0,
    "samplers": 1,
    "transforms": 1,
    "pruners": 1,
    "search": 2,
    "callbacks/base": 2,
    "callbacks": 3,
    "testing": 4,
    "cli": 4,
}
HEAVY = ("torchvision", "transformers", "accelerate", "datasets", "sklearn", "bayes_opt", "optuna", "pyarrow", "pandas")
HEAVY += ("matplotlib", "PIL")
# weighted.py is the drawing core that all samplers share
SHARED_SAMPLERS = {"base", "weighted"}


def module_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def place(parts: tuple[str, ...]) -> tuple[str, int] | None:
    """(room, floor) of a module given as ("callbacks", "hf"); None for the package root."""
    if not parts:
        return None
    room = "/".join(parts[:2]) if "/".join(parts[:2]) in FLOORS else parts[0]
    return (room, FLOORS[room]) if room in FLOORS else None


def tamis_imports(path: Path) -> set[tuple[str, ...]]:
    """Every tamis module imported anywhere in the file (also inside functions), without the leading ``tamis``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        found |= {tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "tamis"}
    return found


@pytest.mark.parametrize("path", module_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path):
    here = place(path.relative_to(PACKAGE).with_suffix("").parts)
    if here is None or here[0] in ("cli", "testing"):
        return
    for parts in tamis_imports(path):
        there = place(parts)
        if there is None:
            continue
        assert there[1] <= here[1], f"{path.name} (floor {here[1]}) imports tamis.{'.'.join(parts)} (floor {there[1]})"
        if here[1] == 1:
            assert there[0] in ("_core", here[0]), f"{path.name}: floor 1 rooms never import one another"
        if here[0] == "callbacks/base":
            assert there[0] != "search"
        if here[0] == there[0] == "samplers" and path.stem not in ("__init__", *SHARED_SAMPLERS):
            families = {path.stem.split("_")[0], *SHARED_SAMPLERS, "features"}
            assert parts[1].split("_")[0] in families, f"{path.name}: sibling samplers never import each other"


@pytest.mark.parametrize("path", module_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_late(path: Path):
    if path.relative_to(PACKAGE).parts[0] == "testing":
        return
    allowed = {"hf.py": {"transformers"}}.get(path.name, set())
    for node in ast.parse(path.read_text()).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] not in set(HEAVY) - allowed, f"{path.name} imports {name} at module level"


def test_files_stay_readable():
    long = {str(p.relative_to(ROOT)): n for p in module_files() if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"over 400 lines: {long}"


def test_importing_tamis_pulls_in_no_heavy_package():
    code = (
        "import sys, tamis, tamis.samplers, tamis.pruners, tamis.transforms, tamis.search, tamis.callbacks;"
        "from tamis import Policy, load_policy, PolicyError;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_tamis_costs_little_more_than_torch():
    """At most 1.05 of ``import torch`` (goal 7), measured as the modules' own time inside one interpreter."""
    code = (
        "import time; t=time.perf_counter(); import torch; a=time.perf_counter()-t;"
        "t=time.perf_counter(); import tamis, tamis.samplers, tamis.pruners, tamis.callbacks;"
        "print((time.perf_counter()-t)/a)"
    )
    ratios = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        ratios.append(float(done.stdout))
    assert min(ratios) <= 0.05, ratios
