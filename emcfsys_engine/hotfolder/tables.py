"""Which tables a ledger has: one of an older version, or just being made, lacks some."""

import sqlite3


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Tell whether a ledger has a table of this name."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None
