"""Files that are whole or absent: written under a name of their own, forced to disk, renamed into place."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from tamis.core.types import PathOrStr

__all__ = ["remove_leftovers", "replace_file", "write_atomically", "write_tensors"]


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def replace_file(path: PathOrStr, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file beside ``path``, force it to disk and put it in the place of ``path``.

    Whoever reads ``path`` sees the old file or the new one, also after a power cut, and several processes may write
    it at once (the last one stays). Nothing is left behind if ``write`` raises.

    Args:
        path: the file to make or replace; its folder is made if needed.
        write: called with the path of the temporary file, in the same folder, which does not exist yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # as _TEMPORARY
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # a rename is on disk only when its folder is
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: PathOrStr, *, age: float = 3600.0) -> None:
    """Remove the temporary files that killed processes have left behind in ``folder``.

    Args:
        folder: need not be there.
        age: only files that were not written to for so many seconds, >= 0; another process may be at work.
    """
    for path in Path(folder).glob(".*.tmp"):
        try:
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime >= age:
                path.unlink()
        except OSError:  # somebody else's, or gone
            continue


def write_atomically(path: PathOrStr, raw: bytes) -> None:
    """`replace_file` with these bytes.

    Args:
        path: the file to make or replace.
        raw: its content.
    """
    replace_file(path, lambda temporary: temporary.write_bytes(raw))


def write_tensors(
    path: PathOrStr, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """`replace_file` with a safetensors file.

    Args:
        path: the file to make or replace.
        tensors: by name, of any device; they are made contiguous and must not share memory.
        metadata: text by name, kept in the file's header.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    replace_file(path, lambda temporary: save_file(whole, temporary, None if metadata is None else dict(metadata)))
