"""Messages opened, and a run that failed."""

import re
from pathlib import Path

import msgspec
from textual.pilot import Pilot

from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunFailed, RunStarted
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.outcome import ExitRecord
from emcfsys_engine.run.records import TrainRequest
from emcfsys_tui.screens.message import MessageScreen
from tests.tui.conftest import say, screen_text, step, until

REASON = (
    "images/train/cell_0007.png: value 7 is no class. Add it under [classes], or draw it anew.\n"
    "images/train/cell_0008.png: is half a \x1b[31mfile with a very long story that no row of a"
    " list has the room for, whatever the terminal. Copy it again."
)


def failed_run(folder: Path, *, steps: int = 0) -> Run:
    run = new_run(folder / "runs", TrainRequest(), project=load_project(folder))
    say(run, RunStarted(run=run.id, does="train"), *(step(n + 1) for n in range(steps)))
    say(run, RunFailed(reason=REASON, exit_code=2))
    run.log_file.write_text("reading images\nsaw \x1b]0;evil\x07 words\n")
    run.exit_file.write_bytes(msgspec.json.encode(ExitRecord(exit_code=2)))
    return run


def window(pilot: Pilot[None]) -> str:
    """Return what the window says, its frame and its line breaks as spaces."""
    assert isinstance(pilot.app.screen, MessageScreen)
    return " ".join(re.sub("[│─┌┐└┘]", " ", screen_text(pilot)).split())


async def opens(pilot: Pilot[None], words: str) -> None:
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen))
    await until(pilot, lambda: words in window(pilot))
    text = screen_text(pilot)
    assert "\x1b" not in text and "\x07" not in text and r"\n" not in text
