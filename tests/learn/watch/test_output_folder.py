"""Before a watch begins: one watch an output folder, and nothing begins while a disk is away."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from emcfsys_engine.errors import InputError, RunFailedError, WatchedError
from emcfsys_engine.files import DiskFullError
from emcfsys_engine.hotfolder import ledger
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.learn.watch.output_folder import is_all_there, take_folder
from emcfsys_engine.learn.worker import reason_of
from emcfsys_engine.run.events import Event, WatchState
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import WatchRequest


class Worker:
    """What a worker is here: its run, whether it was asked to end, and what it said."""

    def __init__(self, run: Run, asked: list[str | None]) -> None:
        self.run = run
        self._asked = iter(asked)
        self.said: list[Event] = []

    def stop_request(self) -> str | None:
        return next(self._asked, "cancel")

    def emit(self, event: Event) -> None:
        self.said.append(event)

    emit_when_possible = emit


def request(place: Path, *, once: bool = False, incoming: str = "incoming") -> WatchRequest:
    (place / incoming).mkdir(exist_ok=True)
    (place / "out").mkdir(exist_ok=True)
    return WatchRequest(
        model=str(place / "best.safetensors"),
        watch=str(place / incoming),
        output=str(place / "out"),
        once=once,
    )


def worker_of(place: Path, wanted: WatchRequest, asked: list[str | None]) -> RunContext:
    return cast(RunContext, Worker(new_run(place / "runs", wanted), asked))


def test_a_second_lasting_watch_is_refused_and_one_that_was_ended_gets_nothing(
    tmp_path: Path,
) -> None:
    wanted = request(tmp_path)
    first = take_folder(worker_of(tmp_path, wanted, [None]), wanted)
    assert isinstance(first, Ledger)
    with pytest.raises(WatchedError):
        take_folder(worker_of(tmp_path, wanted, [None]), wanted)
    first.close()
    assert take_folder(worker_of(tmp_path, wanted, ["cancel"]), wanted) is None


def test_a_disk_that_is_full_before_the_watch_begins_is_waited_for_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, once = request(tmp_path), request(tmp_path, once=True)
    real, tries = ledger.connect, 0

    def first_full(file: Path) -> sqlite3.Connection:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise DiskFullError(file)
        return real(file)

    monkeypatch.setattr(ledger, "connect", first_full)
    with pytest.raises(DiskFullError) as caught:
        take_folder(worker_of(tmp_path, once, [None]), once)
    assert reason_of(caught.value, tmp_path / "run").startswith(str(tmp_path / "out"))
    worker = worker_of(tmp_path, wanted, [None, None])
    taken = take_folder(worker, wanted)
    assert isinstance(taken, Ledger)  # the tries before did not leave it locked
    (said,) = cast(Worker, worker).said
    assert isinstance(said, WatchState) and said.state == "full" and "ledger" in said.detail
    taken.close()


def test_an_output_that_has_the_masks_of_another_folder_is_refused(tmp_path: Path) -> None:
    wanted = request(tmp_path)
    first = take_folder(worker_of(tmp_path, wanted, [None]), wanted)
    assert first is not None
    first.record([Entry(path="a.tif", size=1, mtime_ns=1, state="done", mask="a.png")])
    first.close()
    other = request(tmp_path, incoming="other")
    with pytest.raises(InputError, match="masks of another watched folder.*Choose another output"):
        take_folder(worker_of(tmp_path, other, [None]), other)


def test_a_model_whose_disk_is_late_is_waited_for_but_not_by_a_once(tmp_path: Path) -> None:
    once = request(tmp_path, once=True)
    with pytest.raises(RunFailedError, match="the model is not there"):
        is_all_there(worker_of(tmp_path, once, [None]), once)
    lasting = request(tmp_path)
    worker = worker_of(tmp_path, lasting, [None])
    assert not is_all_there(worker, lasting)  # asked to end meanwhile
    told = [one for one in cast(SimpleNamespace, worker).said if isinstance(one, WatchState)]
    assert [one.state for one in told] == ["waiting"]
    Path(lasting.model).write_bytes(b"weights")
    assert is_all_there(worker_of(tmp_path, lasting, [None]), lasting)
