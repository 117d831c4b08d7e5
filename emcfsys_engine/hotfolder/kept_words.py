"""What people's words ask for: corrected masks are measured, words of a lost ledger come back.

These are taken again from the journal. A word comes back with its image when the ledger knows that
again: if its content and its masks are still those of which it was said.
"""

import os
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.hotfolder import journal
from emcfsys_engine.hotfolder.journal import Act
from emcfsys_engine.hotfolder.judged import Judged, read_judged, write_judged, write_words
from emcfsys_engine.hotfolder.tables import has_table
from emcfsys_engine.images.own_files import digest_of_output

TABLES = """
CREATE TABLE IF NOT EXISTS kept_words (path BLOB PRIMARY KEY, act BLOB NOT NULL);
"""
_WORDS = ("accepted", "rejected", "corrected")
_ENDS_A_WORD = ("predicted", "redone", "adopted")


def take_from_journal(connection: sqlite3.Connection, output: Path) -> int:
    """Keep the last word of each image that a ledger does not know; return how many.

    It is a new one, or one of last week that was put back: the journal goes on after the line that
    it noted. What is no sound line is passed over: a word is a help here, no proof.
    Raises: OutputError where the journal cannot be read: without it no word would come back.
    """
    words: dict[str, Act] = {}
    if journal.ends_with(output, journal.noted_head(connection)):
        return 0
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # nobody notes a later line meanwhile
        known, last = journal.ids_waiting(connection), b""
        for last in journal.lines_after(output, journal.noted_head(connection)):
            _follow(last, words, known)
        connection.executemany(
            "INSERT OR REPLACE INTO kept_words VALUES (?, ?)",
            [(os.fsencode(path), any_names.encode(act)) for path, act in words.items()],
        )
        if last:
            journal.note_read(connection, last)
    return len(words)


def _follow(line: bytes, words: dict[str, Act], known: Collection[str]) -> None:
    """Take a word, or what ends one, from a line; `known`: ids of acts that a ledger knows."""
    try:
        act: Act = any_names.decode(line, Act)
    except msgspec.MsgspecError:
        return
    if act.act in _WORDS and act.id not in known:
        words[act.image] = act
    elif act.act in _ENDS_A_WORD and not _is_of_same(act, words.get(act.image)):
        words.pop(act.image, None)


def _is_of_same(act: Act, word: Act | None) -> bool:
    """Tell whether an act found or made the masks of a word again, as after an earlier ledger."""
    if word is None or act.content != word.content:
        return False
    return all(word.masks.get(name) == digest for name, digest in act.masks.items())


def give_back(
    connection: sqlite3.Connection, output: Path, images: Iterable[tuple[str, str]]
) -> list[str]:
    """Give images their words again, within the caller's transaction.

    `images`: path and digest of what was just noted as done. A word is of the masks that it was
    said of: those of a newer version have none. Return those that were not judged, and are by
    their word.
    """
    if connection.execute("SELECT 1 FROM kept_words LIMIT 1").fetchone() is None:
        return []
    judged: list[str] = []
    for path, digest in images:
        name = os.fsencode(path)
        query = "SELECT act, mask FROM kept_words JOIN seen USING (path) WHERE path = ?"
        row = connection.execute(query, (name,)).fetchone()
        if row is None:
            continue
        act: Act = any_names.decode(os.fsencode(row[0]), Act)
        is_of_its = os.fsdecode(row[1]) in act.masks
        if act.content == digest and is_of_its and _are_there(output, act.masks):
            one = next(read_judged(connection, paths=[path]), None)
            if one is None:  # its masks were adopted: there are no numbers, and still a word
                write_judged(connection, [Judged(path=path, digest=digest)])
                one = Judged(path=path, digest=digest)
                judged.append(path)
            said = msgspec.structs.replace(one, word=act.act, word_reason=act.reason)
            write_words(connection, [said])
            if act.act == "corrected":
                ask_to_measure(connection, {path: act.id})
        connection.execute("DELETE FROM kept_words WHERE path = ?", (name,))
    return judged


def known_again(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return the images with their digests whose words wait, and which a ledger knows."""
    query = "SELECT path, digest FROM kept_words JOIN seen USING (path) WHERE state = 'done'"
    return [(os.fsdecode(path), str(digest)) for path, digest in connection.execute(query)]


def forget(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Forget the words that wait for images of which something newer is said."""
    connection.executemany(
        "DELETE FROM kept_words WHERE path = ?", [(os.fsencode(path),) for path in paths]
    )


def _are_there(output: Path, masks: dict[str, str]) -> bool:
    """Tell whether masks are as they were; a foreign journal's paths lead nowhere else."""
    for name, digest in masks.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return False
        try:
            if digest_of_output(output / name) != digest:
                return False
        except OSError:
            return False
    return True


# Images of which a person said that they corrected their masks: their numbers are to follow.
#
# They wait here from the moment of the word, in one transaction with it, until the watch has
# measured the masks as they are now: a kill between the two loses none.
_TABLE = "to_measure"
_NEW = f"CREATE TABLE {_TABLE} (path BLOB PRIMARY KEY, word TEXT NOT NULL)"  # id of the word's act


def keep_to_measure(connection: sqlite3.Connection) -> None:
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


def ask_to_measure(connection: sqlite3.Connection, words: Mapping[str, str]) -> None:
    """Have images measured, within the caller's transaction; `words`: image -> id of the act."""
    connection.executemany(
        f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?)",
        [(os.fsencode(path), word) for path, word in words.items()],
    )


def waiting_for_measure(connection: sqlite3.Connection) -> dict[str, str]:
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


def forget_to_measure(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Forget images that were predicted anew: their numbers are of other masks."""
    connection.executemany(
        f"DELETE FROM {_TABLE} WHERE path = ?", [(os.fsencode(path),) for path in paths]
    )
