"""A policy on the Hugging Face Hub, without a network: what goes up and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tamis
from tamis import Policy, PolicyError
from tests.golden.toys import ToyPolicy, toy


class FakeHub:
    """The two calls of `huggingface_hub.HfApi` that `push_to_hub` makes, kept in a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def __call__(self, token: str | None = None) -> FakeHub:
        return self

    def create_repo(self, **kwargs: Any) -> Any:
        self.calls.append(kwargs)
        return type("Repo", (), {"repo_id": kwargs["repo_id"]})

    def upload_folder(self, *, repo_id: str, folder_path: str, **kwargs: Any) -> str:
        self.calls.append(kwargs)
        blobs, snapshot = self.root / "blobs", self.root / repo_id
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for path in Path(folder_path).iterdir():  # laid out as the Hub's cache is: links out of the folder
            (blobs / path.name).write_bytes(path.read_bytes())
            (snapshot / path.name).symlink_to(blobs / path.name)
        return f"https://hub/{repo_id}"


def test_a_policy_goes_to_the_hub_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    hub = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    asked: dict[str, Any] = {}

    def download(repo_id: str, **kwargs: Any) -> str:
        asked.update(kwargs)
        return str(tmp_path / "hub" / repo_id)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert toy().save_pretrained(tmp_path / "here") is None
    assert sorted(path.suffix for path in (tmp_path / "here").iterdir()) == [".json", ".safetensors"]
    url = toy().save_pretrained(tmp_path / "here", repo_id="me/toy", push_to_hub=True, private=True)
    assert url == "https://hub/me/toy"
    assert hub.calls[0]["private"] is True
    monkeypatch.chdir(tmp_path)
    assert tamis.load_policy("me/toy") == toy()
    assert ToyPolicy.from_pretrained("me/toy", revision="v1") == toy()
    assert asked["revision"] == "v1"
    assert ToyPolicy.from_pretrained(tmp_path / "here") == toy()


def test_a_missing_folder_is_not_looked_for_on_the_hub_if_its_parent_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(PolicyError, match="no such file"):
        tamis.load_policy("runs/swift")
    with pytest.raises(PolicyError, match="no such file"):
        tamis.load_policy(tmp_path / "absent")


def test_a_repository_that_cannot_be_had_raises_policy_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError, match="'nobody/nothing': no such folder, and not to be had from the Hub"):
        Policy.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)
