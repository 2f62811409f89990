"""The documents' Python blocks run as printed, in order, in one namespace per document.

What a block takes for granted (a model, a data set) stands in HTML comments that start with ``setup``: invisible to
the reader, executed here. A block whose fence says ``python skip`` is not run (it needs the network or a GPU).
"""

import re
from pathlib import Path

import pytest

from tamis.policy import base as policy

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"<!-- setup\n(?P<setup>.*?)-->|^```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(policy, "_registry", dict(policy._registry))  # what a page registers ends with it
    text = path.read_text()
    namespace = {"__name__": "document", "ROOT": ROOT}
    for match in BLOCK.finditer(text):
        line = text[: match.start()].count("\n") + 1
        code = match["setup"] or match["code"] or ""
        exec(compile("\n" * line + code, str(path), "exec"), namespace)  # noqa: S102


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_repository_exist(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"
