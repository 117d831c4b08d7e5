"""Verdicts in the ledger: of one prediction each, judged anew without predicting, kept for ever."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Due, Entry, Ledger, read_ledger
from emcfsys_engine.hotfolder.review import read_verdicts
from emcfsys_engine.project_tables import Limit

LIMITS = {"confidence": Limit(review_below=0.8, fail_below=0.6)}
ODD = "a b/\udcff\n.tif"


def entry(path: str, digest: str = "d") -> Entry:
    return Entry(path=path, size=1, mtime_ns=1, digest=digest, mask=f"{path}.png")


def judged(path: str, confidence: float, state: str = "", digest: str = "d") -> Judged:
    numbers = {"": {"confidence": confidence}}
    return Judged(path=path, digest=digest, numbers=numbers, state=state)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, owner="x")


def states(output: Path) -> dict[str, str]:
    _, found = read_verdicts(output, ("", "pass", "review", "fail"))
    return {one.path: one.verdict for one in found}


def test_verdicts_are_there_after_a_restart_and_counted(ledger: Ledger) -> None:
    names = {"a.tif": "pass", ODD: "review", "c.tif": "fail"}
    ledger.record(
        [entry(name) for name in names],
        (),
        [judged(name, 0.5, state) for name, state in names.items()],
    )
    ledger.close()
    counts, found = read_verdicts(ledger.output)
    assert counts == {"pass": 1, "review": 1, "fail": 1}
    assert {one.path: (one.state, one.mask) for one in found} == {
        ODD: ("review", f"{ODD}.png"),
        "c.tif": ("fail", "c.tif.png"),
    }


def test_other_limits_judge_stored_numbers_anew_once(ledger: Ledger) -> None:
    ledger.record(
        [entry("a.tif"), entry("b.tif"), entry("c.tif")],
        (),
        [judged("a.tif", 0.9), judged("b.tif", 0.7), judged("c.tif", 0.5)],
    )
    assert ledger.judge_by(LIMITS) == (3, 3)
    assert states(ledger.output) == {"a.tif": "pass", "b.tif": "review", "c.tif": "fail"}
    assert ledger.judge_by(LIMITS) is None
    assert ledger.judge_by({"confidence": Limit(fail_below=0.95)}) == (2, 3)  # c fails otherwise
    assert set(states(ledger.output).values()) == {"fail"}
    assert ledger.judge_by({}) == (3, 3)
    assert read_verdicts(ledger.output)[0] == {"pass": 0, "review": 0, "fail": 0}
    ledger.close()


def test_a_verdict_is_of_its_prediction_alone(ledger: Ledger) -> None:
    ledger.record([entry("a.tif")], (), [judged("a.tif", 0.5, "fail")])
    ledger.record([entry("a.tif", "touched")])
    assert states(ledger.output) == {"a.tif": "fail"}
    with contextlib.closing(sqlite3.connect(ledger.file)) as older, older:
        older.execute("UPDATE seen SET digest = 'predicted by an older program'")
    assert states(ledger.output) == {}
    ledger.record([entry("a.tif", "new")], (), [judged("a.tif", 0.9, "pass", "new")])
    assert states(ledger.output) == {"a.tif": "pass"}
    ledger.close()


def test_a_command_that_is_due_knows_the_verdict_after_a_restart(ledger: Ledger) -> None:
    due = Due(path="a.tif", mask="a.tif.png", verdict="fail", reasons=("confidence 0.5 …",))
    made = Judged(path="a.tif", digest="d", numbers={}, state="fail", reasons=due.reasons)
    ledger.record([entry("a.tif")], [due], [made])
    assert ledger.due() == [due]
    ledger.close()


def test_a_ledger_from_before_verdicts_has_none_and_goes_on(ledger: Ledger) -> None:
    ledger.record([entry("a.tif")])
    ledger.close()
    with contextlib.closing(sqlite3.connect(ledger.file)) as old, old:
        old.execute("DROP TABLE judged")
        old.execute("DROP TABLE limits")
    assert read_verdicts(ledger.output) == ({}, [])
    again = Ledger(ledger.output, owner="x")
    assert again.judge_by(LIMITS) == (0, 0)
    again.close()
    assert [one.path for one in read_ledger(ledger.output)] == ["a.tif"]


def test_a_damaged_row_spoils_no_other(ledger: Ledger) -> None:
    ledger.record(
        [entry("a.tif"), entry("b.tif")],
        (),
        [judged("a.tif", 0.5, "fail"), judged("b.tif", 0.5, "fail")],
    )
    ledger.close()
    with contextlib.closing(sqlite3.connect(ledger.file)) as db, db:
        db.execute("UPDATE judged SET numbers = x'ff' WHERE path = x'612e746966'")  # a.tif
    assert states(ledger.output) == {"b.tif": "fail"}
