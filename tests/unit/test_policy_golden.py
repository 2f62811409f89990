"""Artefacts of every kind and schema, saved once and committed as ``tests/golden/KIND/SCHEMA``: they load for ever.

A new kind or schema adds a folder: ``policy.save("tests/golden/KIND/SCHEMA")``. None is ever saved anew.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

import tamis
from tamis.policy import registry as policy_module
from tests.golden.toys import plain, same, toy

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/*/policy.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_golden_artefact_loads_and_saves_unchanged(folder: Path, tmp_path: Path) -> None:
    policy = tamis.load_policy(folder)
    before = json.loads((folder / "policy.json").read_text())
    assert (policy.kind, str(before["schema"])) == (folder.parent.name, folder.name)
    policy.save(tmp_path)
    after = json.loads((tmp_path / "policy.json").read_text())
    assert same(tamis.load_policy(tmp_path), policy)
    if before["schema"] == policy.schema:
        for part in ("spec", "data", "search", "tensors"):
            assert after[part] == before[part]


def test_the_toys_load_as_they_were() -> None:
    assert same(tamis.load_policy(GOLDEN / "toy" / "1"), toy())
    assert same(tamis.load_policy(GOLDEN / "toy_plain" / "1"), plain())
    assert same(tamis.load_policy(GOLDEN / "toy_plain" / "2"), plain())


@pytest.mark.parametrize("kind", sorted(policy_module._BUILTIN))
def test_every_kind_of_tamis_has_a_golden_artefact_per_schema(kind: str) -> None:
    module, _, name = policy_module._BUILTIN[kind].partition(":")
    try:
        schema = getattr(import_module(module), name).schema
    except ModuleNotFoundError:
        pytest.skip(f"{module} is not written yet")
    wanted = {str(GOLDEN / kind / str(number)) for number in range(1, schema + 1)}
    assert wanted <= {str(folder) for folder in FOLDERS}, f"save a {name} into {min(wanted)}"
