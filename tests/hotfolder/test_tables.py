"""What a ledger of an older version lacks is known by its tables."""

import sqlite3
from contextlib import closing

from emcfsys_engine.hotfolder.tables import has_table


def test_a_table_is_there_or_not_and_an_index_is_none() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript("CREATE TABLE seen (path BLOB); CREATE INDEX made ON seen (path);")
        assert has_table(db, "seen")
        assert not has_table(db, "made")
        assert not has_table(db, "judged")
