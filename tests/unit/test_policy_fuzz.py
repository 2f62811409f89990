"""Damaged, edited and hostile artefacts: each loads equal to what was saved, or raises PolicyError, and nothing else.

Two families. *Unsealed*: bytes or values were changed after saving, as by a bad disk or an editor. *Sealed*: the
changer also made every digest fit, as an attacker can; then a load may give another, valid policy, which must
survive its own round trip.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import resource
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tamis
from tamis import PolicyError
from tamis.policy import registry as policy_module
from tamis.policy.io import _own_digest
from tests.golden.toys import ToyPolicy, plain, same, toy

Files = dict[str, bytes]
JSON = "policy.json"

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 2**31, 2**63, 2**64, 10**19, 0.5, -0.0, 1e308, "", "x", "x" * 2000, "\ud800", "\0",
    [], {}, [[]], [0], {"": 0}, {"a": {"b": []}}, [0, 2**62], [2**62, 2**62, 2**62], [-1], [1e9],
    "../../etc/passwd", "/etc/passwd", "policy.json", "os:system", "int64", "NaN", "sha256:", "toy_plain",
    "F32", "BOOL", "F8_E4M3", "F4", "C64", "U64", "__import__('os').system('true')",
]  # fmt: skip


def seal(document: dict[str, Any], blob: bytes | None = None) -> Files:
    """The two files with every digest made to fit."""
    files = {}
    if blob is not None:
        digest = hashlib.sha256(blob).hexdigest()
        name = f"policy-{digest[:16]}.safetensors"
        document["tensors"] = {**document["tensors"], "sha256": digest, "file": name, "bytes": len(blob)}
        files[name] = blob
    document["sha256"] = _own_digest(document)
    return {**files, JSON: json.dumps(document).encode()}


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if here:
        yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*here, key))


def edit_value(rng: np.random.Generator, value: Any) -> Any:
    """One random place of a JSON value gets a hostile value, loses a key, or a key is added or renamed."""
    value = copy.deepcopy(value)
    places = list(paths(value))
    *parents, last = places[rng.integers(len(places))]
    holder = value
    for key in parents:
        holder = holder[key]
    action = rng.integers(5)
    if action <= 1 or isinstance(holder, list):
        holder[last] = copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
    elif action == 2:
        del holder[last]
    elif action == 3:
        holder[f"{last}x"] = holder.pop(last)
    else:
        holder[["extra", "", "__class__", "kept.x", "a.b"][rng.integers(5)]] = copy.deepcopy(holder[last])
    return value


def flip(rng: np.random.Generator, raw: bytes) -> bytes:
    out = bytearray(raw)
    for _ in range(rng.integers(1, 9)):
        out[rng.integers(len(out))] ^= int(rng.integers(1, 256))
    return bytes(out)


def flip_bit(rng: np.random.Generator, raw: bytes) -> bytes:
    out = bytearray(raw)
    out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(rng: np.random.Generator, raw: bytes) -> bytes:
    return raw[: rng.integers(len(raw))]


def grow(rng: np.random.Generator, raw: bytes) -> bytes:
    return raw + [b" ", b"\n", b"\0", b"}", rng.bytes(50), bytes(100_000)][rng.integers(6)]


def splice(rng: np.random.Generator, raw: bytes) -> bytes:
    """Repeat or drop a run in the middle."""
    i, j = sorted(rng.integers(len(raw), size=2))
    return raw[:j] + raw[i:] if rng.integers(2) else raw[:i] + raw[j:]


def edit_header(rng: np.random.Generator, blob: bytes) -> bytes:
    """A safetensors file with a changed header (values, names, sizes, offsets) or header length."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    if rng.integers(4) == 0:
        length = [0, 1, size - 1, size + 1, len(blob), 2**31, 2**63 - 1, 2**64 - 1][rng.integers(8)]
        return length.to_bytes(8, "little") + blob[8:]
    text = json.dumps(edit_value(rng, header)).encode()
    return len(text).to_bytes(8, "little") + text + blob[8 + size :]


BYTE_EDITS: list[tuple[Callable[[np.random.Generator, bytes], bytes], int]] = [
    (flip, 200), (flip_bit, 300), (cut, 200), (grow, 50), (splice, 150),
]  # fmt: skip


def unsealed(original: Files) -> Iterator[Files]:
    rng = np.random.default_rng(20)
    for name, raw in original.items():
        for edit, count in BYTE_EDITS:
            for _ in range(count):
                yield {**original, name: edit(rng, raw)}
    document = json.loads(original[JSON])
    for _ in range(500):
        yield {**original, JSON: json.dumps(edit_value(rng, document)).encode()}
    names = list(original)
    yield dict(zip(names, reversed(original.values()), strict=True))  # swapped
    for name in names:
        yield {other: raw for other, raw in original.items() if other != name}  # lost
        yield {**original, name: b""}


def sealed(original: Files) -> Iterator[Files]:
    rng = np.random.default_rng(21)
    document = json.loads(original[JSON])
    (name,) = original.keys() - {JSON}
    blob = original[name]
    for _ in range(700):
        changed = edit_value(rng, document)
        changed["sha256"] = _own_digest(changed)
        yield {JSON: json.dumps(changed).encode(), name: blob}
    for edit in (flip_bit, cut, grow, splice, edit_header, edit_header, edit_header):
        for _ in range(100):
            yield seal(dict(document), edit(rng, blob))


def write(folder: Path, files: Files) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, ToyPolicy, Files]:
    folder = tmp_path / "policy"
    toy().save(folder)
    return folder, toy(), {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


watching: list[Path] = []
breaches: list[str] = []
HARMFUL = (
    "exec",
    "compile",
    "os.system",
    "os.exec",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)


def audit(event: str, args: tuple[Any, ...]) -> None:
    if not watching:
        return
    opened = event == "open" and isinstance(args[0], (str, bytes, os.PathLike))
    outside = opened and not Path(os.fsdecode(args[0])).resolve().is_relative_to(watching[0])
    if outside or event in HARMFUL:
        breaches.append(f"{event} {args}"[:200])


class Watch:
    """While entered: no code is compiled or run, nothing outside ``folder`` is opened, peak memory stays low."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def __enter__(self) -> None:
        if audit not in installed:
            sys.addaudithook(audit)
            installed.append(audit)
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        breaches.clear()
        watching.append(self.folder)

    def __exit__(self, *_: Any) -> None:
        watching.clear()
        assert not breaches
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.peak < 200 * 1024  # KiB


installed: list[Any] = []


def warm_up(folder: Path) -> None:
    """Import what a first load imports, so that the watch sees only what the artefact does."""
    for path in policy_module._BUILTIN.values():
        try:
            importlib.import_module(path.partition(":")[0])
        except ModuleNotFoundError:
            continue
    assert same(tamis.load_policy(folder), toy())
    plain().save(folder.parent / "plain")
    assert same(tamis.load_policy(folder.parent / "plain"), plain())


def test_damaged_artefacts_load_equal_or_raise_policy_error(saved: tuple[Path, ToyPolicy, Files]) -> None:
    folder, original, files = saved
    warm_up(folder)
    equal, messages = 0, []
    for damaged in unsealed(files):
        write(folder, damaged)
        with Watch(folder):
            try:
                loaded = tamis.load_policy(folder)
            except PolicyError as error:
                messages.append(str(error))
                continue
        assert same(loaded, original)
        equal += 1
    refused = len(messages)
    assert all(str(folder) in message for message in messages)
    assert equal + refused >= 2000
    assert refused >= 2000
    assert equal > 0  # white space was changed, so the test can tell the two outcomes


def test_sealed_artefacts_load_a_valid_policy_or_raise_policy_error(saved: tuple[Path, ToyPolicy, Files]) -> None:
    folder, _, files = saved
    warm_up(folder)
    again = folder.parent / "again"
    valid = refused = 0
    for hostile in sealed(files):
        write(folder, hostile)
        try:
            with Watch(folder):
                loaded = tamis.load_policy(folder)
        except PolicyError:
            refused += 1
            continue
        valid += 1
        if valid % 10 == 0:  # fsync is slow
            loaded.save(again)
            assert same(tamis.load_policy(again), loaded)
    assert valid + refused >= 1400
    assert valid > 20
    assert refused > 1000


def bombs(document: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    text = json.dumps(document)
    cap = 16 * 2**20
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for depth in (10_000, 1_000_000):
            yield f"nested {opening}", (opening * depth + closing * depth).encode()
            yield f"nested in spec {opening}", text.replace('"spec": {', f'"spec": {opening * depth} {{', 1).encode()
    for item in ("[]", '"ab"'):
        items = ",".join([item] * (cap // (len(item) + 1) - 100))
        yield f"wide {item}", f"[{items}]".encode()
        yield f"wide, below the cap on values: {item}", f"[{','.join([item] * 400_000)}]".encode()
    yield "too large", (text + " " * cap).encode()
    yield "one long string", f'{{"a": "{"x" * (cap - 20)}"}}'.encode()
    yield "one long integer", text.replace('"schema": 1', '"schema": ' + "9" * 1_000_000).encode()
    yield "infinite float", text.replace("0.75", "1e999").encode()
    for name in ("NaN", "Infinity", "-Infinity"):
        yield name, text.replace("0.75", name).encode()
    yield "duplicate key", text.replace('"schema": 1', '"schema": 1, "schema": 1').encode()
    yield "duplicate key inside", text.replace('"steps": 3', '"steps": 3, "steps": 3').encode()
    yield "BOM", b"\xef\xbb\xbf" + text.encode()
    yield "UTF-16", text.encode("utf-16")
    yield "not UTF-8", text.encode().replace(b"toy", b"t\xffy")
    yield "empty", b""
    yield "two documents", (text + text).encode()


def test_json_bombs_raise_policy_error_and_stay_small(saved: tuple[Path, ToyPolicy, Files]) -> None:
    folder, _, files = saved
    document = json.loads(files[JSON])
    for word, raw in bombs(document):
        (folder / JSON).write_bytes(raw)
        tracemalloc.start()
        try:
            with pytest.raises(PolicyError):
                tamis.load_policy(folder, allow_edited=True)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 160 * 2**20, f"{word}: {peak / 2**20:.0f} MiB"


def test_tensor_file_of_another_policy_is_refused(saved: tuple[Path, ToyPolicy, Files], tmp_path: Path) -> None:
    folder, _, files = saved
    other = tmp_path / "other"
    ToyPolicy(steps=1, kept={"a": toy().weights}).save(other)
    (theirs,) = other.glob("*.safetensors")
    (name,) = files.keys() - {JSON}
    (folder / name).write_bytes(theirs.read_bytes())
    with pytest.raises(PolicyError, match=name):
        tamis.load_policy(folder)
    write(folder, {JSON: files[JSON], theirs.name: theirs.read_bytes()})
    with pytest.raises(PolicyError, match="no such file"):
        tamis.load_policy(folder)
