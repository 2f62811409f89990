"""The two files of a policy artefact: written so that a crash leaves the old policy or the new one, read distrustfully.

``policy.json`` holds everything but tensors, and a digest of its own content. Tensors lie in
``policy-<first 16 digits of their sha256>.safetensors``: named by content, so that the old JSON keeps its old
tensors until the new JSON has replaced it; only then are other tensor files removed. `docs/policies.md` shows the
format. The digests tell damage and edits from what was saved; they are no signature: whoever can write the folder
can write digests too. What such a writer can do is bounded: no code is run, no other file is read, and memory
stays within a small multiple of the files' sizes.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import stat
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tamis.core.errors import PolicyError
from tamis.core.files import remove_leftovers, write_atomically

__all__ = ["FORMAT", "JSON_FILE", "read_document", "read_tensors", "write_artefact"]

FORMAT = "tamis.policy"
JSON_FILE = "policy.json"
TENSOR_FILE = re.compile(r"policy-[0-9a-f]{16}\.safetensors")
MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_VALUES = 1_000_000  # 16 MiB of "[]," would parse into half a gigabyte of lists
TOP_KEYS = {"data", "format", "kind", "made_by", "schema", "search", "sha256", "spec", "tensors"}
TENSOR_KEYS = {"bytes", "file", "keys", "sha256"}
_DAMAGED = "the file is damaged or was not written by tamis; restore it or save the policy again"


def write_artefact(folder: Path, document: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write both files atomically, tensors first.

    Args:
        folder: made if it does not exist.
        document: every top key but ``format``, ``tensors`` and ``sha256``, as JSON values.
        tensors: by name; any device, need not be contiguous.

    Raises:
        PolicyError: the document is larger than `read_document` accepts.
        OSError: the folder cannot be written.
    """
    document = {**document, "format": FORMAT, "tensors": None}
    blob = b""
    if tensors:
        # cloned, because safetensors refuses tensors that share memory
        own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
        blob = safetensors.torch.save(own)
        digest = hashlib.sha256(blob).hexdigest()
        keys = {name: {"dtype": _dtype_name(t), "shape": list(t.shape)} for name, t in own.items()}
        document["tensors"] = {"bytes": len(blob), "file": _tensor_file(digest), "keys": keys, "sha256": digest}
    document["sha256"] = _own_digest(document)
    text = json.dumps(document, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=1) + "\n"
    raw = text.encode()
    _check_caps(raw, folder / JSON_FILE)

    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    current = document["tensors"]["file"] if tensors else None
    if current is not None:
        write_atomically(folder / current, blob)
    write_atomically(folder / JSON_FILE, raw)
    for path in folder.glob("policy-*.safetensors"):
        if path.name != current and TENSOR_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)


def read_document(folder: Path, *, allow_edited: bool = False, follow_links: bool = False) -> dict[str, Any]:
    """Read ``policy.json`` and check its size, syntax, top keys, ``format`` and own digest.

    Args:
        folder: the artefact.
        allow_edited: accept a document whose own digest does not fit.
        follow_links: accept links that lead out of the folder (the Hub's cache is made of them).

    Raises:
        PolicyError: for anything that is not as `write_artefact` leaves it.
    """
    path = folder / JSON_FILE
    raw = _read(path, follow_links=follow_links, most=MAX_JSON_BYTES)
    _check_caps(raw, path)
    try:
        document = json.loads(
            raw.decode(),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_short_int,
        )
        found = _own_digest(document) if isinstance(document, dict) else ""
    except RecursionError as error:
        raise PolicyError(f"{path}: nested too deeply; {_DAMAGED}") from error
    except ValueError as error:  # bad UTF-8, bad JSON, and what the hooks refuse
        raise PolicyError(f"{path}: not readable as JSON ({reprlib.repr(str(error))}); {_DAMAGED}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        got = document.get("format") if isinstance(document, dict) else document
        raise PolicyError(f"{path}: format={reprlib.repr(got)}: must be {FORMAT!r}; is this a policy's folder?")
    _same_keys(document, TOP_KEYS, str(path))
    if document["sha256"] != found and not allow_edited:
        raise PolicyError(
            f"{path}: edited after it was saved (its sha256 does not fit its content); if the edit is yours, "
            "load(..., allow_edited=True) and save again, else restore the file"
        )
    return document


def read_tensors(folder: Path, block: object, *, follow_links: bool = False) -> dict[str, torch.Tensor]:
    """Read the tensors that a document's ``tensors`` block declares; size, digest, names, shapes and dtypes must fit.

    Args:
        folder: the artefact.
        block: the document's ``tensors``.
        follow_links: as `read_document`.

    Raises:
        PolicyError: for anything that is not as `write_artefact` leaves it.
    """
    if block is None:
        return {}
    where = f"{folder / JSON_FILE}: tensors"
    if not isinstance(block, dict):
        raise PolicyError(f"{where}={reprlib.repr(block)}: must be an object or null; {_DAMAGED}")
    _same_keys(block, TENSOR_KEYS, where)
    digest, size, keys = block["sha256"], block["bytes"], block["keys"]
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise PolicyError(f"{where}.sha256={reprlib.repr(digest)}: must be 64 hexadecimal digits; {_DAMAGED}")
    if block["file"] != _tensor_file(digest):
        raise PolicyError(
            f"{where}.file={reprlib.repr(block['file'])}: must be the bare name {_tensor_file(digest)!r}; {_DAMAGED}"
        )
    if type(size) is not int or size < 0 or not isinstance(keys, dict):
        raise PolicyError(f"{where}: bytes must be an int >= 0 and keys an object; {_DAMAGED}")
    path = folder / _tensor_file(digest)
    raw = _read(path, follow_links=follow_links, exactly=size)
    if hashlib.sha256(raw).hexdigest() != digest:
        raise PolicyError(f"{path}: its sha256 is not the one in {JSON_FILE}; {_DAMAGED}")
    try:
        tensors = safetensors.torch.load(raw)
    except Exception as error:  # the parser's errors are of several types, none of them documented
        raise PolicyError(f"{path}: not readable as safetensors ({reprlib.repr(str(error))}); {_DAMAGED}") from error
    found = {name: {"dtype": _dtype_name(t), "shape": list(t.shape)} for name, t in tensors.items()}
    if found != keys:
        raise PolicyError(f"{path}: names, shapes and dtypes are not those in {JSON_FILE}; {_DAMAGED}")
    return tensors


def _read(path: Path, *, follow_links: bool, most: int | None = None, exactly: int | None = None) -> bytes:
    """The bytes of a regular file inside its folder, its size checked before a byte is read."""
    try:
        if not follow_links and path.resolve().parent != path.parent.resolve():
            raise PolicyError(f"{path}: a link that leads out of its folder; copy the file into the folder")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # before opening: a named pipe would wait for ever
            raise PolicyError(f"{path}: not a regular file; {_DAMAGED}")
        if exactly is not None and status.st_size != exactly:
            raise PolicyError(f"{path}: has {status.st_size} bytes, {JSON_FILE} says {exactly}; {_DAMAGED}")
        if most is not None and status.st_size > most:
            raise PolicyError(f"{path}: has {status.st_size} bytes, at most {most} are allowed; {_DAMAGED}")
        with path.open("rb") as file:
            return file.read(status.st_size)
    except FileNotFoundError as error:
        raise PolicyError(f"{path}: no such file; is this a policy's folder?") from error
    except PolicyError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a NUL in the name, no permission
        raise PolicyError(f"{path}: cannot be read ({error}); check the path and its permissions") from error


def _own_digest(document: dict[str, Any]) -> str:
    """Sha256 of the document without its ``sha256``, in one canonical spelling: edits of white space do not count."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_caps(raw: bytes, path: Path) -> None:
    if len(raw) > MAX_JSON_BYTES or raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_JSON_VALUES:
        raise PolicyError(
            f"{path}: too large ({len(raw)} bytes; at most {MAX_JSON_BYTES} bytes and {MAX_JSON_VALUES} values are "
            "allowed); large numeric content belongs in a tensor field"
        )


def _same_keys(found: dict[str, Any], allowed: set[str], where: str) -> None:
    for word, names in (("missing", allowed - found.keys()), ("unknown", found.keys() - allowed)):
        if names:
            raise PolicyError(f"{where}: {word} key {reprlib.repr(min(names))}; {_DAMAGED}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"integer {digits[:20]}... is too large")
    return int(digits)


def _tensor_file(digest: str) -> str:
    return f"policy-{digest[:16]}.safetensors"


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
