"""Images of which a person said that they corrected their masks: their numbers are to follow.

They wait here from the moment of the word, in one transaction with it, until the watch has measured
the masks as they are now: a kill between the two loses none.
"""

import os
import sqlite3
from collections.abc import Iterable, Mapping

from emcfsys_engine.hotfolder.tables import has_table

_TABLE = "to_measure"
_NEW = f"CREATE TABLE {_TABLE} (path BLOB PRIMARY KEY, word TEXT NOT NULL)"  # id of the word's act


def keep(connection: sqlite3.Connection) -> None:
    """Begin to note them; what older versions believed and did not measure is measured once."""
    if has_table(connection, _TABLE):
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if has_table(connection, _TABLE):
            return  # another process was faster
        connection.execute(_NEW)
        old = "SELECT path, '' FROM judged WHERE word = 'corrected'"
        connection.execute(f"INSERT INTO {_TABLE} {old}")


def ask(connection: sqlite3.Connection, words: Mapping[str, str]) -> None:
    """Have images measured, within the caller's transaction; `words`: image -> id of the act."""
    connection.executemany(
        f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?)",
        [(os.fsencode(path), word) for path, word in words.items()],
    )


def waiting(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the images that wait, with the act of the word; none in an older ledger."""
    if not has_table(connection, _TABLE):
        return {}
    rows = connection.execute(f"SELECT path, word FROM {_TABLE} ORDER BY path")
    return {os.fsdecode(path): str(word) for path, word in rows}


def measured(connection: sqlite3.Connection, words: Mapping[str, str]) -> None:
    """Note that numbers are those of a word; where another was said since, they still wait."""
    connection.executemany(
        f"DELETE FROM {_TABLE} WHERE path = ? AND word = ?",
        [(os.fsencode(path), word) for path, word in words.items()],
    )


def forget(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Forget images that were predicted anew: their numbers are of other masks."""
    connection.executemany(
        f"DELETE FROM {_TABLE} WHERE path = ?", [(os.fsencode(path),) for path in paths]
    )
