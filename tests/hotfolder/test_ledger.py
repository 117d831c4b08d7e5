"""The ledger keeps what was seen, for one watcher at a time."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.errors import EmcfError, InputError, OutputError, WatchedError
from emcfsys_engine.hotfolder.journal import act_of
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Due, Entry, Ledger, read_ledger
from emcfsys_engine.hotfolder.review import read_verdicts

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


def test_a_damaged_ledger_is_kept_and_named_and_a_new_one_begun(tmp_path: Path) -> None:
    folder = tmp_path / ".emcfsys"
    folder.mkdir()
    content = b"this is no database, but it may be somebody's" * 50
    (folder / "ledger.sqlite").write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        read_ledger(tmp_path)
    ledger = Ledger(tmp_path, owner="x")
    assert (folder / "ledger.damaged-1.sqlite").read_bytes() == content
    assert "ledger.damaged-1.sqlite" in ledger.told
    ledger.record([ENTRY])
    ledger.close()
    assert [entry.path for entry in read_ledger(tmp_path)] == [ENTRY.path]


def test_damage_in_any_table_begins_a_new_ledger_at_once(tmp_path: Path) -> None:
    Ledger(tmp_path, owner="x").close()
    file = tmp_path / ".emcfsys" / "ledger.sqlite"
    whole = file.read_bytes()
    with contextlib.closing(sqlite3.connect(file)) as db:
        (size,) = db.execute("PRAGMA page_size").fetchone()
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_master"))
    assert {"judged", "judged_states", "acts", "head"} <= roots.keys()
    for name, page in roots.items():
        end = page * size
        file.write_bytes(whole[: end - size] + b"\xff" * size + whole[end:])
        ledger = Ledger(tmp_path, owner="x")
        ledger.close()
        assert "is damaged" in ledger.told, name
        assert "\n" not in ledger.told


def test_a_ledger_from_before_commands_were_noted_goes_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, owner="x")
    ledger.record([ENTRY])
    ledger.close()
    with contextlib.closing(sqlite3.connect(ledger.file)) as old, old:
        for table in ("changed", "due", "ledger"):
            old.execute(f"DROP TABLE {table}")
    again = Ledger(tmp_path, owner="x")
    assert list(again.entries()) == [ENTRY.path]
    assert again.due() == []
    again.close()


def test_commands_are_due_until_they_have_run(tmp_path: Path) -> None:
    due = [Due(path=f"{name}.tif", mask=f"{name}.png", unlike="odd") for name in "ab"]
    ledger = Ledger(tmp_path, owner="x")
    ledger.record([ENTRY], due)
    ledger.close()
    again = Ledger(tmp_path, owner="x")
    assert sorted(again.due(), key=lambda one: one.path) == due
    again.has_run(due[:1])
    assert again.due() == due[1:]
    again.close()


@pytest.mark.parametrize("removed", [".emcfsys", "ledger.sqlite*"])
def test_a_ledger_that_was_removed_says_so_and_is_made_again_with_verdicts_and_words(
    tmp_path: Path, removed: str
) -> None:
    ledger = Ledger(tmp_path, owner="x")
    verdict = Judged(path=ENTRY.path, digest="d", state="fail", word="accepted", word_reason="ok")
    ledger.record([ENTRY], (), [verdict])
    for place in [*tmp_path.rglob(removed)]:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert not ledger.is_in_place
    with pytest.raises(OSError, match="gone"):
        ledger.record([ENTRY])
    ledger.make_again({ENTRY.path: ENTRY}, tmp_path)
    assert ledger.is_in_place
    (found,) = read_verdicts(tmp_path, ["pass"])[1]
    assert (found.word, found.word_reason, found.state) == ("accepted", "ok", "fail")
    assert [entry.path for entry in read_ledger(tmp_path)] == [ENTRY.path]
    with pytest.raises(WatchedError):
        Ledger(tmp_path, owner="y")
    ledger.close()


def test_what_yesterdays_copy_of_an_output_lacks_is_to_be_made_again_there(tmp_path: Path) -> None:
    output, copy = tmp_path / "out", tmp_path / "copy"
    ledger = Ledger(output, owner="x")
    ledger.record([ENTRY])
    shutil.copytree(output, copy)
    made = [Entry(path=f"{name}.tif", size=1, mtime_ns=1, mask=f"{name}.png") for name in "bc"]
    bad = Entry(path="d.tif", size=1, mtime_ns=1, state="failed")
    ledger.record([*made, bad])
    (copy / "b.png").touch()
    output.rename(tmp_path / "broken")
    copy.rename(output)
    known = ledger.entries()
    ledger.make_again(known, tmp_path)
    assert known.keys() == ledger.entries().keys() == {ENTRY.path, "b.tif", "d.tif"}
    ledger.close()


def test_what_takes_the_place_of_an_output_and_has_other_images_is_left_as_it_is(
    tmp_path: Path,
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ledgers = {name: Ledger(tmp_path / f"{name} out", owner=name) for name in ("ours", "theirs")}
    for place in (ours, theirs):
        place.mkdir()
        assert ledgers[place.name].other_root(place) is None
        ledgers[place.name].record([msgspec.structs.replace(ENTRY, digest=place.name)])
    ledgers["theirs"].close()
    ledger = ledgers["ours"]
    ledger.output.rename(tmp_path / "away")
    (tmp_path / "theirs out").rename(ledger.output)
    with pytest.raises(InputError, match=f"masks of another watched folder .*{theirs}"):
        ledger.make_again(ledger.entries(), ours)
    with pytest.raises(EmcfError):  # nothing more is written there
        ledger.measured([], [act_of("measured")])
    assert [entry.digest for entry in read_ledger(ledger.output)] == ["theirs"]
    Ledger(ledger.output, owner="they again").close()


@pytest.mark.parametrize("mode", [0o755, 0o777])  # of the folder: a group's often may be written
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's rights")
def test_a_colleague_who_may_only_read_sees_what_a_watch_did_and_leaves_nothing(mode: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        ledger = Ledger(output, owner="test")
        ledger.record([Entry(path="a.tif", size=1, mtime_ns=1, mask="a.png")])
        ledger.close()
        output.chmod(0o755)
        ledger.folder.chmod(mode)
        before = sorted(os.listdir(ledger.folder))
        os.seteuid(65534)
        try:
            assert [entry.path for entry in read_ledger(output)] == ["a.tif"]
            assert sorted(os.listdir(ledger.folder)) == before  # what is theirs keeps the owner out
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("name", ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-journal"])
@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_no_database_of_somebody_else_becomes_the_ledger(
    tmp_path: Path, name: str, kind: str
) -> None:
    mine, file = tmp_path / "mine.sqlite", tmp_path / ".emcfsys" / name
    with contextlib.closing(sqlite3.connect(mine)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = mine.read_bytes()
    file.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(mine)
    else:
        os.link(mine, file)
    with pytest.raises(OutputError, match=r"is a link or a pipe|no plain file|second name"):
        Ledger(tmp_path, owner="run-1")
    if kind == "pipe" and name == "ledger.sqlite":
        assert read_ledger(tmp_path) == []
    assert mine.read_bytes() == before


def test_a_ledger_knows_whose_images_it_has_by_path_and_wherever_they_were_moved(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    ledger = Ledger(tmp_path / "out", owner="us")
    assert ledger.other_root(one) is None
    assert ledger.other_root(two) is None  # it knows no image yet
    assert ledger.other_root(one) is None
    ledger.record([Entry(path="a.tif", size=1, mtime_ns=1)])
    assert ledger.other_root(two) == one
    moved = one.rename(tmp_path / "moved")
    assert ledger.other_root(moved) is None
    assert ledger.other_root(two) == moved
    moved.rename(tmp_path / "away")
    assert ledger.other_root(moved) is None  # its disk is away, its path is the same
    ledger.close()
