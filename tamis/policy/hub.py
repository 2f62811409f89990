"""Sharing a policy on the Hugging Face Hub, with the names and arguments that a model has there.

`save_pretrained`, `from_pretrained` and `push_to_hub` have the names and arguments of huggingface_hub's
`ModelHubMixin`, but are thin calls of `HfApi.upload_folder` and `snapshot_download`. The mixin itself does not fit:
it deletes a ``config.json`` that lies in the folder and writes its own, which on load feeds the constructor before
any digest is checked; it sets an attribute on every instance, which a frozen dataclass refuses; and importing it
takes 0.4 s. ``config`` and ``model_card_kwargs`` are therefore the two arguments that are absent here.
"""

from __future__ import annotations

import os
import re
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TypeVar

from tamis.core.errors import PolicyError
from tamis.core.types import PathOrStr
from tamis.policy.io import JSON_FILE

__all__ = ["HubMethods"]

AnyHub = TypeVar("AnyHub", bound="HubMethods")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class HubMethods(ABC):
    """`save_pretrained`, `push_to_hub` and `from_pretrained` over `save` and `_load`."""

    @abstractmethod
    def save(self, folder: PathOrStr) -> None:
        """Write the policy's files into ``folder``."""

    @classmethod
    @abstractmethod
    def _load(cls: type[AnyHub], folder: Path, *, allow_edited: bool, follow_links: bool) -> AnyHub:
        """Read them back."""

    def save_pretrained(
        self,
        save_directory: PathOrStr,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """`save`, and if wanted `push_to_hub`.

        Args:
            save_directory: the folder.
            repo_id: ``"name"`` or ``"owner/name"`` on the Hub; default: the folder's name.
            push_to_hub: also upload it.
            push_to_hub_kwargs: options of `push_to_hub`.

        Returns:
            The commit's URL, or None if nothing was uploaded.

        Raises:
            PolicyError: as `save`.
        """
        self.save(save_directory)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or Path(save_directory).name, **push_to_hub_kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push policy using tamis.",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Upload the policy to the Hub in one commit; the repository is made if needed.

        Args:
            repo_id: ``"name"`` or ``"owner/name"``.
            commit_message: of the commit.
            private: whether a new repository is private; default: the owner's setting.
            token: of the Hub; default: the one that is logged in.
            branch: which one to commit to; default: the main one.
            create_pr: open a pull request instead.

        Returns:
            The commit's URL.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
                delete_patterns="policy-*.safetensors",  # of an older policy; files in this upload are kept
            )
        return str(commit)

    @classmethod
    def from_pretrained(
        cls: type[AnyHub],
        pretrained_model_name_or_path: PathOrStr,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> AnyHub:
        """Load from a folder, or download from the Hub (only the policy's files) and load.

        Args:
            pretrained_model_name_or_path: a folder, or ``"owner/name"`` on the Hub.
            force_download: fetch files anew that are in the cache.
            token: of the Hub; default: the one that is logged in.
            cache_dir: where downloads are kept; default: the Hub's cache.
            local_files_only: look only into the cache.
            revision: branch, tag or commit.

        Raises:
            PolicyError: there is no such folder or repository, or the files are not a policy of this class.
        """
        name = os.fspath(pretrained_model_name_or_path)
        parent = os.path.dirname(name)
        # if "runs" is a folder, "runs/swift" was meant as a path, so nothing is fetched
        if os.path.exists(name) or not _HUB_ID.fullmatch(name) or os.path.exists(parent):
            return cls._load(Path(name), allow_edited=False, follow_links=False)
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=[JSON_FILE, "policy-*.safetensors"],
            )
        except Exception as error:  # offline, no such repository, no permission: huggingface_hub has a type for each
            raise PolicyError(
                f"{name!r}: no such folder, and not to be had from the Hub ({type(error).__name__}: {error}); "
                "check the name and the connection"
            ) from error
        return cls._load(Path(folder), allow_edited=False, follow_links=True)
