"""A command in the foreground: whoever asks it to end is heard, however deaf its worker is."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from emcfsys_engine.commands import foreground
from emcfsys_engine.launch.processes import MOST_GRACES, Activity, descendants
from emcfsys_engine.launch.start import holder, start
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import AnyEvent, EventReader
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.waiting import PATIENCE_S

_DEAF = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
_PROGRAM = """
import sys
from pathlib import Path
from emcfsys_engine.commands import foreground
from emcfsys_engine.run.folder import Run
began = foreground.start
worker = [sys.executable, "-c", sys.argv[2], sys.argv[1] + "/ready"]
foreground.start = lambda run, **given: began(run, worker=worker, **given)
foreground.gpus_for = lambda run: ({}, None)
raise SystemExit(foreground.run_in_foreground(Run(Path(sys.argv[1]))))
"""


@pytest.fixture
def deaf(tmp_path: Path) -> "tuple[Run, subprocess.Popen[str]]":
    """A run in the foreground whose worker ignores TERM, with a grace of a moment."""
    config = tmp_path / "config" / "emcfsys"
    config.mkdir(parents=True)
    (config / "config.toml").write_text("[jobs]\ngrace_s = 0.3\n")
    run = new_run(tmp_path / "runs", TrainRequest())
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(run.folder), _DEAF],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
        stderr=subprocess.PIPE,
        text=True,
    )
    _true((run.folder / "ready").exists)
    return run, process


def _true(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def test_ctrl_c_twice_is_cancelled_with_130(deaf: "tuple[Run, subprocess.Popen[str]]") -> None:
    run, process = deaf
    process.send_signal(signal.SIGINT)
    _true(lambda: run.asked() == "cancel")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "cancelled"
    assert run.state() == "cancelled"
    assert _nothing_is_left(run)


def test_ctrl_c_in_the_middle_of_another_has_the_last_word_and_cuts_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes between any two instructions, also of a line under way: nothing is said there."""
    run = new_run(tmp_path / "runs", TrainRequest())
    monkeypatch.setattr(foreground, "signal_group", lambda pid, number: True)
    keeper = subprocess.Popen(["true"])
    keeper.wait()
    asked = foreground._SignalsPassedOn(run, keeper)
    really = run.ask

    def ask_and_hear_another(word: Literal["cancel", "stop"]) -> None:
        really(word)
        asked._on_signal(signal.SIGINT, None)

    monkeypatch.setattr(run, "ask", ask_and_hear_another)
    asked._on_signal(signal.SIGINT, None)
    assert capsys.readouterr().err == ""
    asked.tell()
    said = capsys.readouterr().err.split("\n")
    assert [line for line in said if line] == [
        "Saving and ending. Ctrl+C again kills it.",
        "cancelled",
    ]
    assert asked.code == 130


def test_a_worker_deaf_to_term_is_killed_after_the_grace(
    deaf: "tuple[Run, subprocess.Popen[str]]",
) -> None:
    run, process = deaf
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert "was killed after 0.3 s" in said
    assert _nothing_is_left(run)


def _nothing_is_left(run: Run) -> bool:
    held_by = holder(run)
    assert held_by is not None
    _true(lambda: not descendants(held_by.token))
    return not run.is_alive()


def test_it_says_when_the_runs_folder_leaves_and_comes_back_and_hears_who_ends_it(
    deaf: "tuple[Run, subprocess.Popen[str]]",
) -> None:
    run, process = deaf
    assert process.stderr is not None
    with process.stderr as said:
        away = run.folder.rename(run.folder.with_name("away"))
        assert "was removed, or its disk is away" in said.readline()
        away.rename(run.folder)
        assert "is there again" in said.readline()
        away = run.folder.rename(away)
        assert "was removed" in said.readline()
        process.send_signal(signal.SIGINT)  # no word can be left in the folder
        assert process.wait(PATIENCE_S) in (1, 130)
        assert "Traceback" not in said.read()


def test_it_goes_on_while_what_its_worker_tells_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is away for a moment ends no training of hours."""
    run = new_run(tmp_path / "runs", TrainRequest())
    real, answers = EventReader.read_new, iter([True, False, False, True])
    keepers: list[subprocess.Popen[bytes]] = []

    def read_new(reader: EventReader) -> list[AnyEvent]:
        if not next(answers, True):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(reader.file))
        return real(reader)

    def began(run: Run, **given: Any) -> "subprocess.Popen[bytes]":
        code = "import time; time.sleep(1)"
        keepers.append(start(run, worker=[sys.executable, "-c", code], **given))
        return keepers[0]

    monkeypatch.setattr(EventReader, "read_new", read_new)
    monkeypatch.setattr(foreground, "start", began)
    monkeypatch.setattr(foreground, "gpus_for", lambda _: ({}, None))
    code = foreground.run_in_foreground(run)
    for pipe in (keepers[0].stdin, keepers[0].stdout):
        if pipe is not None:
            pipe.close()
    assert code == 0
    assert next(answers, None) is None


def test_the_last_steps_of_a_training_may_take_long_while_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl+C on one that follows labels asks for hundreds of them: they were cut off."""
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "t"\n[classes]\na = 0\nb = 1\n[training]\nfollow = true\n'
        '[[data]]\nimages = "."\nannotations = "."\n'
    )
    run = new_run(tmp_path / "runs", TrainRequest(), project=load_project(tmp_path))
    now, goes_on = [0.0], [True]
    monkeypatch.setattr(foreground.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Activity, "goes_on", lambda self: goes_on[0])
    monkeypatch.setattr(foreground, "signal_group", lambda pid, number: True)
    keeper = subprocess.Popen(["true"])
    keeper.wait()
    asked = foreground._SignalsPassedOn(run, keeper)

    def graces(number: int) -> int | None:
        for _ in range(number):
            now[0] += 31
            asked.kill_if_due()
        return asked.code

    asked._on_signal(signal.SIGINT, None)
    assert run.asked() == "stop"
    assert graces(3 * MOST_GRACES) is None
    asked._on_signal(signal.SIGINT, None)  # save and end: now it has the usual time
    assert run.asked() == "cancel"
    assert graces(MOST_GRACES - 1) is None
    assert graces(2) == 130
    hangs = foreground._SignalsPassedOn(run, keeper)
    hangs._on_signal(signal.SIGINT, None)
    goes_on[0], asked = False, hangs
    assert graces(3) == 143


def test_a_worker_that_ends_without_a_word_is_told_of(tmp_path: Path) -> None:
    """As one that has too little memory to load its libraries: only its log says why."""
    run = new_run(tmp_path / "runs", TrainRequest())
    program = [sys.executable, "-c", _PROGRAM, str(run.folder), "raise SystemExit(1)"]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == 1
    expected = f"run-0001: ended with exit code 1, and without a word. See {run.log_file}"
    assert ended.stderr.splitlines() == [f"emcfsys-engine: {expected}"]
