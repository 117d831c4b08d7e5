"""The ledger keeps what was seen, for one watcher at a time."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.ledger import (
    Entry,
    Ledger,
    digest_of,
    read_ledger,
    watcher_of,
)

ENTRY = Entry(path="a b/\udcff\n.tif", size=10, mtime_ns=5, digest="d", mask="m.png")


def test_what_was_recorded_is_there_after_a_restart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, owner="run-1")
    ledger.record([ENTRY])
    ledger.close()
    (found,) = read_ledger(tmp_path)
    assert (found.path, found.stamp, found.mask) == (ENTRY.path, (10, 5), "m.png")
    again = Ledger(tmp_path, owner="run-2")
    assert list(again.entries()) == [ENTRY.path]
    again.close()


def test_a_second_watcher_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    assert watcher_of(tmp_path) is None
    ledger = Ledger(tmp_path, owner="run-0001")
    with pytest.raises(InputError, match="run-0001"):
        Ledger(tmp_path, owner="run-0002")
    assert "run-0001" in (watcher_of(tmp_path) or "")
    ledger.close()
    assert watcher_of(tmp_path) is None


def test_a_damaged_ledger_is_kept_and_named(tmp_path: Path) -> None:
    folder = tmp_path / ".emcfsys"
    folder.mkdir()
    (folder / "ledger.sqlite").write_bytes(b"this is no database, but it may be somebody's" * 50)
    with pytest.raises(InputError, match="is damaged"):
        Ledger(tmp_path, owner="x")
    assert (folder / "ledger.sqlite").read_bytes().startswith(b"this is no database")


def test_a_digest_tells_a_rewrite_from_a_touch(tmp_path: Path) -> None:
    file = tmp_path / "a"
    content = bytes(range(256)) * 1000
    file.write_bytes(content)
    first = digest_of(file, len(content))
    file.touch()
    assert digest_of(file, len(content)) == first
    for place in (0, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert digest_of(file, len(content)) != first
