"""Where a ledger lies, and what becomes of what is none."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.ledger_file import connect, explained, ledger_file, ledger_in


def test_a_folder_without_a_ledger_has_none_and_one_of_a_newer_version_is_refused(
    tmp_path: Path,
) -> None:
    assert ledger_in(tmp_path) is None
    file = ledger_file(tmp_path)
    file.parent.mkdir()
    connection = connect(file)
    assert ledger_in(tmp_path) == file
    with explained(file), connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="has version 99"):
        connect(file)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE seen ADD COLUMN colour TEXT",
        "ALTER TABLE made ADD COLUMN colour TEXT",
        "ALTER TABLE judged RENAME COLUMN word TO colour",
        "DROP TABLE made; CREATE TABLE made (path BLOB, colour TEXT)",
    ],
)
def test_a_ledger_with_other_columns_is_refused_with_what_to_do(
    tmp_path: Path, change: str
) -> None:
    file = ledger_file(tmp_path)
    file.parent.mkdir()
    connection = connect(file)
    for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
        change = f"DROP TRIGGER {trigger}; {change}"
    connection.executescript(change)
    connection.close()
    with pytest.raises(InputError, match=r"other columns .*colour.*move the file away"):
        connect(file)
    file.rename(file.with_name("aside.sqlite"))
    connect(file).close()


def test_a_ledger_whose_first_start_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    """A kill, or a disk without room, after its first table: each later start was refused."""
    file = ledger_file(tmp_path)
    file.parent.mkdir()
    connect(file).close()
    with closing(sqlite3.connect(file)) as left:
        seen = left.execute("SELECT sql FROM sqlite_master WHERE name = 'seen'").fetchone()[0]
    file.unlink()
    with closing(sqlite3.connect(file)) as left:
        left.execute(seen)
    ledger = Ledger(tmp_path, owner="x")
    assert ledger.told == ""
    assert ledger.entries() == {}
    ledger.close()


def test_the_ledger_may_be_written_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        Ledger(tmp_path, owner="x").close()
    finally:
        os.umask(before)
    assert ledger_file(tmp_path).stat().st_mode & 0o777 == 0o664
