"""Which tables a ledger has, and those that count how many images have which state and verdict.

A ledger of an older version, or one just being made, lacks some. SQLite's own triggers count, never
looking at all images, so that a program of any version that writes into the ledger does.
"""

import sqlite3


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Tell whether a ledger has a table of this name."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


# How many images have which state and verdict: counted as they change, never by looking at all.
#
# SQLite's own triggers count, so that a program of any version that writes into the ledger does.
COUNTED = "verdict_counts"  # a table of ledgers that count; older ones lack it
_VALID = (
    "FROM judged JOIN seen USING (path) WHERE path = {row}.path"
    " AND judged.digest = seen.digest AND seen.state IN ('done', 'skipped')"
)
# No INSERT OR IGNORE: within a trigger SQLite does as the statement outside says, OR REPLACE.
_MOVE_STATE = """
    INSERT INTO state_counts SELECT state, 0 FROM seen WHERE path = {row}.path
        AND state NOT IN (SELECT state FROM state_counts);
    UPDATE state_counts SET number = number {sign} 1
        WHERE state = (SELECT state FROM seen WHERE path = {row}.path);
"""
_MOVE_VERDICT = f"""
    INSERT INTO verdict_counts SELECT judged.state, word, 0 {_VALID}
        AND (judged.state, word) NOT IN (SELECT state, word FROM verdict_counts);
    UPDATE verdict_counts SET number = number {{sign}} 1
        WHERE (state, word) = (SELECT judged.state, word {_VALID});
"""
_TABLES = """
CREATE TABLE state_counts (state TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE verdict_counts (
    state TEXT, word TEXT, number INTEGER NOT NULL, PRIMARY KEY (state, word)
) WITHOUT ROWID;
INSERT INTO state_counts SELECT state, count(*) FROM seen GROUP BY 1;
INSERT INTO verdict_counts SELECT judged.state, word, count(*)
    FROM judged JOIN seen USING (path)
    WHERE judged.digest = seen.digest AND seen.state IN ('done', 'skipped') GROUP BY 1, 2;
CREATE INDEX IF NOT EXISTS seen_ages ON seen (mtime_ns);
"""


def keep_counts(connection: sqlite3.Connection) -> None:
    """Begin to count in a ledger that does not yet."""
    if has_table(connection, COUNTED):
        return
    triggers = [
        f"CREATE TRIGGER {table}_{when}_{what} {when} {what} ON {table} BEGIN"
        f" {moves.format(row=row, sign='-' if when == 'BEFORE' else '+')} END;"
        for table, moves in (("seen", _MOVE_STATE + _MOVE_VERDICT), ("judged", _MOVE_VERDICT))
        for what, row_before, row_after in (
            ("INSERT", "NEW", "NEW"),  # OR REPLACE: what is replaced is still there before
            ("UPDATE", "OLD", "NEW"),
            ("DELETE", "OLD", ""),
        )
        for when, row in (("BEFORE", row_before), ("AFTER", row_after))
        if row
    ]
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if has_table(connection, COUNTED):
            return  # another process was faster
        for statement in (*filter(str.strip, _TABLES.split(";")), *triggers):
            connection.execute(statement)


def count_states(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many files are in which state; {} of a ledger that is just being made."""
    if not has_table(connection, "seen"):
        return {}
    query = "SELECT state, number FROM state_counts"
    if not has_table(connection, COUNTED):
        query = "SELECT state, count(*) FROM seen GROUP BY 1"
    return {str(state): int(number) for state, number in connection.execute(query)}
