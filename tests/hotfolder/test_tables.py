"""What a ledger of an older version lacks is known by its tables."""

import contextlib
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.hotfolder import tables
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger, read_ledger
from emcfsys_engine.hotfolder.review import overview, read_verdicts
from emcfsys_engine.hotfolder.tables import has_table
from emcfsys_engine.project_tables import Limit


def test_a_table_is_there_or_not_and_an_index_is_none() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript("CREATE TABLE seen (path BLOB); CREATE INDEX made ON seen (path);")
        assert has_table(db, "seen")
        assert not has_table(db, "made")
        assert not has_table(db, "judged")


STEP = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from(["done", "trying", "failed", "skipped"]),
    st.sampled_from("xy"),  # digests
    st.sampled_from([None, 0.1, 0.9]),
    st.sampled_from(["", "accepted", "rejected"]),
    st.booleans(),
)


@given(st.lists(STEP, max_size=12))
@settings(max_examples=40, deadline=None)
def test_counters_agree_with_a_count_of_all_rows_after_any_history(steps: list[tuple]) -> None:
    with TemporaryDirectory() as folder:
        output = Path(folder)
        ledger = Ledger(output, owner="x")
        for name, state, digest, value, word, is_tight in steps:
            entry = Entry(path=name, size=1, mtime_ns=1, digest=digest, state=state)
            numbers = {"": {"confidence": value or 0.0}}
            judged = Judged(path=name, digest=digest, numbers=numbers, state="pass", word=word)
            ledger.record([entry], (), [judged] if value is not None else [])
            ledger.judge_by({"confidence": Limit(fail_below=0.5)} if is_tight else {})
        ledger.close()
        counted, (verdicts, _) = overview(output).states, read_verdicts(output)
        rows = Counter(entry.state for entry in read_ledger(output))
        assert {state: n for state, n in counted.items() if n} == dict(rows)
        _, every = read_verdicts(output, ("pass", "review", "fail"))
        assert verdicts == {"pass": 0, "review": 0, "fail": 0} | Counter(x.verdict for x in every)


def test_a_ledger_of_an_older_version_is_counted_without_counters_and_then_with(
    tmp_path: Path,
) -> None:
    ledger = Ledger(tmp_path, owner="x")
    ledger.record([Entry(path="a", size=1, mtime_ns=1)])
    ledger.close()
    with contextlib.closing(sqlite3.connect(ledger.file)) as db, db:
        names = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in names:
            db.execute(f"DROP TRIGGER {name}")
        db.executescript("DROP TABLE state_counts; DROP TABLE verdict_counts;")
    assert overview(tmp_path).states == {"done": 1}
    ledger = Ledger(tmp_path, owner="x")
    ledger.record([Entry(path="b", size=1, mtime_ns=1, state="failed")])
    ledger.close()
    assert overview(tmp_path).states == {"done": 1, "failed": 1}


def test_two_processes_that_begin_to_count_at_once_both_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(tmp_path, owner="x").close()
    found = iter([False, True])
    monkeypatch.setattr(tables, "has_table", lambda connection, name: next(found))
    ledger = Ledger(tmp_path, owner="x")
    ledger.record([Entry(path="a", size=1, mtime_ns=1)])
    ledger.close()
    monkeypatch.undo()
    assert overview(tmp_path).states == {"done": 1}
