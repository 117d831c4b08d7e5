"""The journal: nothing lost, nothing twice, the chain whole; and what was changed is named."""

import contextlib
import errno
import multiprocessing as mp
import os
import random
import signal
import sqlite3
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine import any_names
from emcfsys_engine.hotfolder import journal
from emcfsys_engine.hotfolder.journal import Act, act_of, sealed
from emcfsys_engine.hotfolder.ledger import Entry, Ledger, connect
from emcfsys_engine.hotfolder.places import FOLDER
from emcfsys_engine.hotfolder.review import verify_journal
from emcfsys_engine.images.outages import is_of_disk
from tests.waiting import PATIENCE_S

_FORK = mp.get_context("fork")
ODD = "a b/\udcff\n.tif"


def predict(ledger: Ledger, path: str) -> None:
    """Be a watch that predicted one image."""
    entry = Entry(path=path, size=1, mtime_ns=1, digest="d", mask=f"{path}.png")
    ledger.record([entry], (), (), [act_of("predicted", image=path, masks={f"{path}.png": "m"})])


def note(output: Path, path: str) -> None:
    """Be a watch that predicts one image, and ends."""
    ledger = Ledger(output, owner="x")
    predict(ledger, path)
    ledger.write_journal()
    ledger.close()


def acts_in(output: Path) -> list[Act]:
    lines = (output / FOLDER / journal.NAME).read_bytes().splitlines()
    return [any_names.decode(line, Act) for line in lines]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A ledger with a journal of four lines."""
    ledger = Ledger(tmp_path, owner="x")
    for name in ("a.tif", ODD, "c.tif"):
        predict(ledger, name)
    ledger.write_journal()
    predict(ledger, "d.tif")
    ledger.write_journal()
    ledger.close()
    return tmp_path


def test_every_act_has_one_line_and_the_chain_is_whole(output: Path) -> None:
    assert [act.image for act in acts_in(output)] == ["a.tif", ODD, "c.tif", "d.tif"]
    found = verify_journal(output)
    assert (found.lines, found.fault, found.torn_bytes) == (4, "", 0)
    first = acts_in(output)[0]
    assert first.user
    assert first.time.endswith("+00:00")
    assert first.masks == {"a.tif.png": "m"}


@pytest.mark.parametrize("place", range(4))
def test_one_changed_letter_names_its_line(output: Path, place: int) -> None:
    file = output / FOLDER / journal.NAME
    lines = file.read_bytes().splitlines(keepends=True)
    lines[place] = lines[place].replace(b"predicted", b"preDicted")
    file.write_bytes(b"".join(lines))
    found = verify_journal(output)
    assert found.fault == f"line {place + 1} was changed: its hash is another"
    assert found.lines == place


def test_a_line_that_was_sealed_anew_does_not_fit_the_next(output: Path) -> None:
    file = output / FOLDER / journal.NAME
    lines = file.read_bytes().splitlines()
    first = acts_in(output)[0]
    lines[0] = sealed("", any_names.encode(msgspec.structs.replace(first, user="nobody")))
    file.write_bytes(b"\n".join(lines) + b"\n")
    assert verify_journal(output).fault.startswith("line 2 does not follow the line above")


@pytest.mark.parametrize("taken", [1, 4])
def test_removed_last_lines_are_missed_and_so_is_the_whole_file(output: Path, taken: int) -> None:
    file = output / FOLDER / journal.NAME
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-taken]))
    assert f"lines after line {4 - taken} are gone" in verify_journal(output).fault
    file.unlink()
    assert "are gone" in verify_journal(output).fault


@pytest.mark.parametrize("taken", [1, 4])
def test_that_lines_were_removed_is_still_told_after_the_next_act(output: Path, taken: int) -> None:
    file = output / FOLDER / journal.NAME
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-taken]))
    for name in ("e.tif", "f.tif"):
        note(output, name)
    assert [act.act for act in acts_in(output)[4 - taken :]] == ["lost", "predicted", "predicted"]
    found = verify_journal(output)
    assert found.fault == f"line {5 - taken} tells that lines before it are gone"
    assert found.lines == 7 - taken  # the rest was looked at, too


def test_a_ledger_that_was_put_back_from_a_copy_misses_no_line(output: Path) -> None:
    ledger = output / FOLDER / "ledger.sqlite"
    copy = ledger.read_bytes()
    for number in range(5):
        note(output, f"{number}.tif")
    ledger.write_bytes(copy)
    note(output, "later.tif")
    assert [act.act for act in acts_in(output)] == ["predicted"] * 10
    assert verify_journal(output).fault == ""


def test_a_last_line_without_its_end_is_a_line(output: Path) -> None:
    file = output / FOLDER / journal.NAME
    file.write_bytes(file.read_bytes()[:-1])
    assert (verify_journal(output).lines, verify_journal(output).fault) == (4, "")
    note(output, "e.tif")
    assert [act.image for act in acts_in(output)][3:] == ["d.tif", "e.tif"]
    assert verify_journal(output).fault == ""


def test_a_torn_last_line_is_told_and_heals_at_the_next_append(output: Path) -> None:
    file = output / FOLDER / journal.NAME
    with file.open("ab") as stream:
        stream.write(b'{"previous":"torn')
    assert verify_journal(output).torn_bytes == 17
    note(output, "e.tif")
    assert [act.act for act in acts_in(output)[-2:]] == ["healed", "predicted"]
    assert "17 bytes" in acts_in(output)[-2].reason
    assert verify_journal(output).fault == ""


def test_a_kill_between_the_line_and_its_note_writes_nothing_twice(output: Path) -> None:
    ledger = Ledger(output, owner="x")
    predict(ledger, "e.tif")
    predict(ledger, "f.tif")
    with contextlib.closing(sqlite3.connect(ledger.file)) as db, journal.held(output) as held:
        held.append([row[0] for row in db.execute("SELECT line FROM acts ORDER BY number LIMIT 1")])
    ledger.write_journal()
    ledger.close()
    assert [act.image for act in acts_in(output)[3:]] == ["d.tif", "e.tif", "f.tif"]
    assert verify_journal(output).fault == ""


def test_on_a_full_disk_acts_wait_and_half_a_line_is_none(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(output, owner="x")
    predict(ledger, "e.tif")
    before = (output / FOLDER / journal.NAME).read_bytes()
    write, is_full = os.write, [False]

    def full(descriptor: int, content: bytes) -> int:
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        is_full[0] = True
        return write(descriptor, content[:20])

    monkeypatch.setattr(journal.os, "write", full)
    with pytest.raises(OSError, match=r"No space left .*journal\.jsonl"):
        ledger.write_journal()
    assert (output / FOLDER / journal.NAME).read_bytes() == before
    monkeypatch.undo()
    ledger.write_journal()
    ledger.close()
    assert [act.image for act in acts_in(output)[3:]] == ["d.tif", "e.tif"]


def test_a_link_in_its_place_is_never_written_through(output: Path, tmp_path: Path) -> None:
    file, mine = output / FOLDER / journal.NAME, tmp_path / "mine"
    mine.write_text("mine")
    file.unlink()
    file.symlink_to(mine)
    ledger = Ledger(output, owner="x")
    predict(ledger, "e.tif")
    with pytest.raises(OSError, match="no file of ours"):
        ledger.write_journal()
    ledger.close()
    assert mine.read_text() == "mine"


def _work(output: Path, first: int, number: int, pause_s: float, begun: Event) -> None:
    with contextlib.closing(connect(output / FOLDER / "ledger.sqlite")) as db:
        for place in range(first, first + number):
            with db:
                journal.keep_acts(db, [act_of("predicted", image=str(place))])
                db.execute("INSERT INTO due VALUES (?, '', '')", (str(place),))  # what it tells of
            journal.write_kept(db, output)
            begun.set()
            time.sleep(pause_s)
    os._exit(0)


def _finish(output: Path) -> tuple[list[str], list[str]]:
    """Write what waits; return the images of the journal and of the ledger."""
    with contextlib.closing(connect(output / FOLDER / "ledger.sqlite")) as db:
        journal.write_kept(db, output)
        noted = [str(row[0]) for row in db.execute("SELECT path FROM due")]
    return [act.image for act in acts_in(output) if act.act == "predicted"], noted


def test_twenty_kills_lose_no_act_and_write_none_twice(tmp_path: Path) -> None:
    Ledger(tmp_path, owner="x").close()
    chance = random.Random(0)
    for kill in range(20):
        begun = _FORK.Event()
        child = _FORK.Process(target=_work, args=(tmp_path, kill * 10_000, 10_000, 0.0, begun))
        child.start()
        assert begun.wait(PATIENCE_S)
        child.join(chance.random() * 0.1)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    told, noted = _finish(tmp_path)
    assert len(noted) >= 20
    assert len(told) == len(set(told))
    assert sorted(told) == sorted(noted)
    assert verify_journal(tmp_path).fault == ""


def test_two_writers_share_one_chain(tmp_path: Path) -> None:
    Ledger(tmp_path, owner="x").close()
    begun = _FORK.Event()
    children = [
        _FORK.Process(target=_work, args=(tmp_path, n * 100, 40, 0.001, begun)) for n in (0, 1)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE_S)
        assert child.exitcode == 0
    told, noted = _finish(tmp_path)
    assert sorted(told) == sorted(noted)
    assert len(told) == 80
    assert verify_journal(tmp_path).fault == ""


def test_a_journal_that_somebody_holds_is_waited_for_a_while_and_its_holder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_WAIT_S", 0.1)
    (tmp_path / ".emcfsys").mkdir()
    with journal.held(tmp_path):
        with pytest.raises(OSError, match="is held by process") as told, journal.held(tmp_path):
            pass
        assert f"process {os.getpid()}" in str(told.value)
        assert told.value.errno == errno.ETIMEDOUT
    with journal.held(tmp_path):
        pass


def test_a_folder_in_the_journals_place_is_waited_for_as_a_disk_is(tmp_path: Path) -> None:
    (tmp_path / ".emcfsys" / "journal.jsonl").mkdir(parents=True)
    with pytest.raises(OSError, match="is a folder") as told, journal.held(tmp_path):
        pass
    assert is_of_disk(told.value)
