"""A journal that a disk, an editor or another program has changed: told by line, never read as something else."""

import json

import pytest

from tamis.core.errors import TamisError
from tamis.core.files import remove_leftovers, write_atomically
from tamis.search.journal import FORMAT, Journal
from tests.unit.test_journal import CONFIG, record


def journal_of(path, count=4):
    journal = Journal(path, CONFIG)
    journal.append([record(number, 0.1 * number) for number in range(count)])
    return journal.records


def test_no_flipped_bit_becomes_another_record(tmp_path):
    path = tmp_path / "journal.jsonl"
    right = journal_of(path)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    equal = refused = dropped = 0
    for place in range(len(whole)):
        for bit in range(0, 8, 3):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = Journal(path, CONFIG).records
            except TamisError:
                refused += 1
                continue
            dropped += place >= last and len(found) == 3
            equal += found == right
            assert found == right or (place >= last - 1 and all(found[k] == right[k] for k in found))
    assert refused > 1000
    assert dropped > 100
    assert equal < 50  # white space between two lines and the like


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal_of(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + lines[2].replace(b"0.1", b"0.3", 1) + b"".join(lines[3:]))
    with pytest.raises(TamisError, match="line 3 is damaged; restore the file from a copy"):
        Journal(path, CONFIG)


def test_a_journal_without_checksums_goes_on(tmp_path):
    path = tmp_path / "journal.jsonl"
    right = journal_of(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["crc32"]
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))  # as release 0.1 wrote it
    again = Journal(path, CONFIG)
    assert again.records == right
    again.append([record(4)])
    assert Journal(path, CONFIG).records == {**right, 4: record(4)}
    without = path.read_text().replace('"trial": 2', '"trjal": 2')
    path.write_text(without)
    with pytest.raises(TamisError, match="line 4 is damaged"):
        Journal(path, CONFIG)


@pytest.mark.parametrize("content", [b'{"epoch": 1}', b'{"epoch": 1}\n', b"step,loss\n1,0.5\n", b"notes", b"\0" * 40])
def test_a_foreign_file_is_not_written_over(tmp_path, content):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    with pytest.raises(TamisError, match="is no journal of a search"):
        Journal(path, CONFIG)
    assert path.read_bytes() == content


def test_an_edited_header_is_told(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal_of(path)
    header, rest = path.read_text().split("\n", 1)
    row = json.loads(header)
    row["config"]["share"] = 0.5
    del row["crc32"]
    path.write_text(json.dumps(row) + "\n" + rest)
    with pytest.raises(TamisError, match="line 1 is damaged"):
        Journal(path, CONFIG)
    assert row["format"] == FORMAT


def test_a_model_that_is_built_anew_is_explained(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path, {**CONFIG, "model": "a"})
    with pytest.raises(TamisError, match=r"seed before you build it$"):
        Journal(path, {**CONFIG, "model": "b"})
    (tmp_path / "policy.json").write_text("{}")
    with pytest.raises(TamisError, match=r"what the finished search found: tamis.load_policy\("):
        Journal(path, {**CONFIG, "model": "b"})


def test_leftovers_of_killed_processes_go(tmp_path):

    ours = [tmp_path / ".journal.jsonl.0123abcd.tmp", tmp_path / ".policy.json.ffffffff.tmp"]
    others = [tmp_path / "notes.tmp", tmp_path / ".x.tmp", tmp_path / ".policy.json.xyz.tmp"]
    for path in (*ours, *others):
        path.write_text("")
    remove_leftovers(tmp_path)
    assert all(path.exists() for path in ours), "another process may be writing them"
    remove_leftovers(tmp_path, age=0)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
    write_atomically(tmp_path / "a.json", b"{}")
    assert not list(tmp_path.glob(".a.json*"))
