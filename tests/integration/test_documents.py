"""The documents' Python blocks run as a reader copies them, and what the documents name exists.

The blocks of a page run in order in one namespace that starts empty, so that a block uses nothing but what stands
above it; in the README each section also runs alone after the first block, which is the preamble. A block whose first
line is ``# name.py`` is saved under that name, as the page says. A block whose fence says ``python skip`` is not run
(it needs the network or a file of the reader's).
"""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

from tamis.policy import registry

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
DOCUMENTS = [README, CONTRIBUTING, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PATH = re.compile(r"`((?:tamis|examples|benchmarks|docs|tests)/[\w./*-]+(?:\.\w+|/))`|`(\w+\.py)`")
CONTRACTS = {
    "TestBalanced": (
        "length_is_honest_and_indices_are_valid",
        "order_is_a_pure_function_of_seed_and_epoch",
        "global_generators_are_untouched",
        "state_goes_through_json",
        "seek_skips_and_changes_nothing_after",
        "iterator_state_resumes_at_every_index",
        "stateful_dataloader_resumes_at_every_batch",
    ),
    "TestLargest": ("state_goes_through_json", "the_cut_model_trains_and_loads_back"),
}
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))


def blocks_of(path):
    """Heading, code and the number of lines above it, for each Python block of a page."""
    text = path.read_text()
    for match in BLOCK.finditer(text):
        above = text[: match.start()]
        heading = re.findall(r"^##+ (.*)$", above, re.MULTILINE)
        yield heading[-1] if heading else "", match[1], above.count("\n") + 1


def run_blocks(path, blocks):
    for _, code, _ in blocks:
        if name := re.match(r"# (\w+\.py)\n", code):
            Path(name[1]).write_text(code)
    namespace = {"__name__": "document"}
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        for _, code, above in blocks:
            exec(compile("\n" * above + code, str(path), "exec"), namespace)  # noqa: S102
    return namespace


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))  # what a page registers ends with it
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


@every_document
def test_python_blocks_run(path, empty_folder):
    run_blocks(path, list(blocks_of(path)))


@pytest.mark.parametrize("suite", CONTRACTS)
def test_the_methods_of_contributing_keep_their_contract(suite, empty_folder):
    """In one process, a part of the suite; tamis' own components go through all of it."""
    contract = run_blocks(CONTRIBUTING, list(blocks_of(CONTRIBUTING)))[suite]()
    for name in CONTRACTS[suite]:
        test = getattr(contract, f"test_{name}")
        test(**{"tmp_path": empty_folder} if "tmp_path" in inspect.signature(test).parameters else {})


@pytest.mark.parametrize("section", sorted({heading for heading, _, _ in list(blocks_of(README))[1:]}))
def test_sections_of_the_readme_run_alone(section, empty_folder):
    preamble, *others = blocks_of(README)
    run_blocks(README, [preamble, *(block for block in others if block[0] == section)])


@every_document
def test_nothing_is_hidden_from_the_reader(path):
    assert "<!--" not in path.read_text()


@every_document
def test_links_within_the_repository_exist(path):
    for target in re.findall(r"(?:\]\(|src=\")([^)#\"\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@every_document
def test_named_files_exist(path):
    """Also a bare ``name.py`` that follows a path on its line: it is in the same folder."""
    for line in path.read_text().splitlines():
        folder = None
        for full, bare in PATH.findall(line):
            folder = (ROOT / full).parent if full else folder
            name = Path(full or bare).name
            assert folder is None or list(folder.glob(name)), f"{path.name}: no {full or bare}: {line}"
    for module in re.findall(r"-m (benchmarks\.\w+|examples\.\w+)", path.read_text()):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), f"{path.name}: {module}"


def code_of(path):
    return "\n".join(code for _, code, _ in blocks_of(path)) if path.suffix == ".md" else path.read_text()


@pytest.mark.parametrize("path", [*DOCUMENTS, *sorted((ROOT / "examples").glob("*.py"))], ids=lambda p: p.name)
def test_only_public_names_are_imported(path):
    for node in ast.walk(ast.parse(code_of(path))):
        names = [(node.module, alias.name) for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        for module, name in names:
            if module.partition(".")[0] == "tamis":
                assert module.count(".") <= 1, f"{path.name}: {module} is not public"
                assert name is None or name in importlib.import_module(module).__all__, f"{module} exports no {name}"
