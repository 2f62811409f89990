"""The files themselves: what a crash leaves, what an edit gives, what is refused and in which words."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tamis
from tamis import PolicyError
from tamis.policy import io as policy_io
from tamis.policy.io import _own_digest
from tests.golden.toys import ToyPolicy, plain, toy

other = ToyPolicy(steps=9, weights=torch.ones(2))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], *, seal: bool = False) -> None:
    path = folder / "policy.json"
    document = json.loads(path.read_text())
    change(document)
    if seal:
        document["sha256"] = _own_digest(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    toy().save(tmp_path / "p")
    return tmp_path / "p"


# ---- saving


def test_a_crash_at_any_step_of_a_save_leaves_the_old_policy_or_the_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    replace, left = os.replace, 0

    def crashing(source: Any, target: Any) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", crashing)
    for steps in (0, 1):  # before the tensors are in place; between the tensors and the JSON
        left = steps
        with pytest.raises(Crash):
            other.save(folder)
        assert tamis.load_policy(folder) == toy()
    left = 2
    other.save(folder)
    assert tamis.load_policy(folder) == other
    assert len(list(folder.iterdir())) == 2


def test_a_crash_before_the_old_tensors_are_removed_leaves_the_new_policy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise OSError("disk on fire")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(OSError, match="disk on fire"):
            other.save(folder)
    assert tamis.load_policy(folder) == other
    assert len(list(folder.glob("*.safetensors"))) == 2
    other.save(folder)
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_a_policy_without_tensors_leaves_no_tensor_file(folder: Path) -> None:
    (folder / "policy-mine.safetensors").write_bytes(b"not ours")
    (folder / "config.json").write_text("{}")
    plain().save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "policy-mine.safetensors", "policy.json"]
    assert tamis.load_policy(folder) == plain()


def test_files_have_the_permissions_that_the_umask_gives(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    wanted = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {wanted}


def test_a_path_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        toy().save(tmp_path / "file")


# ---- edits


def test_an_edit_is_noticed_and_can_be_allowed(folder: Path) -> None:
    edit(folder, lambda document: document["spec"].update(steps=5))
    with pytest.raises(PolicyError, match=r"edited after it was saved.*allow_edited=True.*save again"):
        tamis.load_policy(folder)
    edited = tamis.load_policy(folder, allow_edited=True)
    assert edited.steps == 5
    edited.save(folder)
    assert tamis.load_policy(folder) == edited


def test_new_white_space_and_key_order_are_no_edit(folder: Path) -> None:
    document = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(dict(reversed(document.items())), indent=7))
    assert tamis.load_policy(folder) == toy()


def test_an_int_is_taken_for_a_float(folder: Path) -> None:
    edit(folder, lambda document: document["spec"].update(rate=2), seal=True)
    loaded = tamis.load_policy(folder)
    assert type(loaded.rate) is float
    assert loaded.rate == 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "format='other': must be 'tamis.policy'"),
        (lambda d: d.update(extra=1), "unknown key 'extra'"),
        (lambda d: d.pop("search"), "missing key 'search'"),
        (lambda d: d.update(kind="os:system"), "kind='os:system': must be one of"),
        (lambda d: d.update(kind=["toy"]), r"kind=\['toy'\]: must be one of"),
        (lambda d: d.update(schema=2), "schema=2: this release of tamis reads 'toy' up to schema 1; upgrade tamis"),
        (lambda d: d.update(schema=0), "schema=0"),
        (lambda d: d.update(schema=True), "schema=True"),
        (lambda d: d["spec"].update(more=1), "spec: unknown key 'more'; allowed: limit, mirrored"),
        (lambda d: d["spec"].pop("steps"), "spec: missing key 'steps'"),
        (lambda d: d["spec"].update(steps=True), "spec.steps=True: must be int, got bool"),
        (lambda d: d["spec"].update(steps=1.0), "spec.steps=1.0: must be int, got float"),
        (lambda d: d["spec"].update(steps=0), "steps=0: must be >= 1; the values do not make a ToyPolicy"),
        (lambda d: d["spec"].update(steps=2**63), "spec.steps: must fit 64 bits"),
        (lambda d: d["spec"].update(ops="flip"), "spec.ops='flip': must be tuple"),
        (lambda d: d["spec"].update(limit="no"), "spec.limit='no': must be int \\| None, got str"),
        (lambda d: d["spec"]["nested"]["a"][0].update(high=-1.0), "high=-1.0: must be >= low=0.0"),
        (lambda d: d["data"].update(n=-1), "n=-1: must be >= 0"),
        (lambda d: d["search"].update(score="good"), "search.score='good'"),
        (lambda d: d["made_by"].update(torch=2), "made_by"),
        (lambda d: d.update(tensors=None), "tensors: missing tensor 'weights'"),
        (lambda d: d.update(tensors=[]), "must be an object or null"),
        (lambda d: d["tensors"].update(more=1), "tensors: unknown key 'more'"),
        (lambda d: d["tensors"].update(file="../policy.safetensors"), "must be the bare name 'policy-"),
        (lambda d: d["tensors"].update(sha256="../../x"), "must be 64 hexadecimal digits"),
        (lambda d: d["tensors"].update(bytes=10**12), r"has \d+ bytes, policy.json says 1000000000000"),
        (lambda d: d["tensors"].update(bytes=1.5), "bytes must be an int"),
        (lambda d: d["tensors"]["keys"]["weights"].update(shape=[2**62, 2**62]), "names, shapes and dtypes"),
        (lambda d: d["tensors"]["keys"]["weights"].update(dtype="int32"), "names, shapes and dtypes"),
        (lambda d: d["tensors"]["keys"].pop("weights"), "names, shapes and dtypes"),
    ],
)
def test_a_wrong_value_is_refused_by_name_even_if_the_digest_fits(
    folder: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit(folder, change, seal=True)
    with pytest.raises(PolicyError, match=message) as caught:
        tamis.load_policy(folder)
    assert str(folder) in str(caught.value)


def test_a_tensor_that_the_kind_does_not_have_is_refused(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "policy.json").read_text())
    for name in ("extra", "weights.x", "kept"):
        policy_io.write_artefact(
            tmp_path / name,
            {key: document[key] for key in ("kind", "schema", "spec", "data", "search", "made_by")},
            {"weights": torch.ones(1), name: torch.ones(1)},
        )
        with pytest.raises(PolicyError, match=f"unknown tensor '{name}'; allowed: kept, weights"):
            tamis.load_policy(tmp_path / name)


# ---- files that are not files


def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    for path in list(folder.iterdir()):
        outside = tmp_path / path.name
        path.rename(outside)
        path.symlink_to(outside)
        with pytest.raises(PolicyError, match="a link that leads out of its folder; copy the file into the folder"):
            tamis.load_policy(folder)
        path.unlink()
        outside.rename(path)
    (tmp_path / "link").symlink_to(folder)  # a link to the whole folder is fine
    assert tamis.load_policy(tmp_path / "link") == toy()


def test_what_is_not_a_regular_file_is_refused(folder: Path) -> None:
    for path in list(folder.iterdir()):
        raw = path.read_bytes()
        path.unlink()
        path.mkdir()
        with pytest.raises(PolicyError, match="not a regular file"):
            tamis.load_policy(folder)
        path.rmdir()
        os.mkfifo(path)  # reading it would wait for ever
        with pytest.raises(PolicyError, match="not a regular file"):
            tamis.load_policy(folder)
        path.unlink()
        path.symlink_to(path)
        with pytest.raises(PolicyError, match=path.name):
            tamis.load_policy(folder)
        path.unlink()
        path.write_bytes(raw)
    assert tamis.load_policy(folder) == toy()


def test_a_file_of_a_tebibyte_is_refused_without_being_read(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        os.truncate(path, 2**40)  # sparse: takes no space
        with pytest.raises(PolicyError, match=f"{path.name}: has {2**40} bytes"):
            tamis.load_policy(folder)
        os.truncate(path, size)
    assert tamis.load_policy(folder) == toy()


@pytest.mark.parametrize("name", ["absent", "a\0b", "x" * 5000, ""])
def test_a_path_that_leads_nowhere_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError):
        tamis.load_policy(name)


# ---- schemas


def test_an_older_schema_is_migrated_and_one_without_migration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain().save(tmp_path)
    edit(tmp_path, lambda document: document.update(schema=1, spec={"rates": [0.1, 0.25]}), seal=True)
    assert tamis.load_policy(tmp_path) == plain()
    edit(tmp_path, lambda document: document.update(spec={"wrong": 1}), seal=True)
    with pytest.raises(PolicyError, match="KeyError"):
        tamis.load_policy(tmp_path)
    toy().save(tmp_path)
    monkeypatch.setattr(ToyPolicy, "schema", 2)
    with pytest.raises(PolicyError, match="schema=1: ToyPolicy reads only schema 2"):
        tamis.load_policy(tmp_path)
