"""A day's work in a real tmux, with bursts of keys as a slow line brings them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageFailed, RunStarted, WatchState
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest, WatchRequest
from emcfsys_tui.engine.runs import child_environment
from tests.tools.test_new_project import _drawn
from tests.tui.conftest import made_run, say
from tests.tui.test_program import _PROGRAM, _wait, project_environment, tmux
from tests.waiting import PATIENCE_S

__all__ = ["tmux"]  # a fixture
pytestmark = pytest.mark.long


class Terminal:
    """The program in a tmux; keys go in as one burst."""

    def __init__(self, world: Path, call: Callable[..., str]) -> None:
        self._world, self._call = world, call
        self._session = "t0"  # each start has its own: a tmux without any ends, and not at once

    def start(self, *arguments: str, size: tuple[int, int] = (110, 34)) -> None:
        """Start it in a window of its own."""
        self._session = f"t{int(self._session[1:]) + 1}"
        words = [f"{name}={value}" for name, value in project_environment(self._world).items()]
        program = " ".join(["env", "TERM=screen-256color", *words, *_PROGRAM, *arguments])
        place = [
            "-x",
            str(size[0]),
            "-y",
            str(size[1]),
            "-s",
            self._session,
            "-c",
            str(self._world),
        ]
        self._call("new-session", "-d", *place, f"{program}; echo END $?; cat")

    def type(self, *keys: str) -> None:
        """Press keys, all in one write."""
        self._call("send-keys", "-t", self._session, *keys)

    def write(self, text: str) -> None:
        """Write a text as it is."""
        self._call("send-keys", "-t", self._session, "-l", text)

    def screen(self) -> str:
        """Return what is on the screen."""
        return self._call("capture-pane", "-p", "-t", self._session)

    def shows(self, *words: str, limit_s: float = PATIENCE_S) -> None:
        """Wait until all words are on the screen."""
        try:
            _wait(lambda: all(word in self.screen() for word in words), limit_s=limit_s)
        except AssertionError:
            told = f"{self.screen()}\n{self.jobs('--all')}"
            raise AssertionError(f"{words} did not come:\n{told}") from None

    def jobs(self, *arguments: str) -> str:
        """Return what the engine tells of the queue."""
        command = [sys.executable, "-m", "emcfsys_engine", "jobs", *arguments]
        done = subprocess.run(
            command, env=child_environment(), timeout=PATIENCE_S, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def quit(self) -> None:
        """Leave, cleanly."""
        self.type("q")
        self.shows("END 0")


@pytest.fixture
def terminal(world: Path, tmux: Callable[..., str]) -> Iterator[Terminal]:
    """A terminal; a daemon that was started at it ends with it, and its jobs too."""
    yield Terminal(world, tmux)
    command = [sys.executable, "-m", "emcfsys_engine", "daemon", "stop", "--jobs"]
    subprocess.run(command, env=child_environment(), timeout=PATIENCE_S, capture_output=True)


def test_first_start_from_a_folder_of_images_to_its_data(world: Path, terminal: Terminal) -> None:
    folder = world / "scans"
    folder.mkdir()
    _drawn(folder, "a", "mitochondrion", "resin")
    _drawn(folder, "b", "mitochondria", "resin")
    terminal.start()
    terminal.shows("to make a project from a folder")
    terminal.type("n", "s", "c", "Tab")
    terminal.shows("scans/")
    terminal.type("Enter")
    terminal.shows("like mitochondrion")
    terminal.type("Down", "m")
    terminal.shows("with mitochondria")
    assert not (folder / "project.toml").exists()
    terminal.type("Enter")
    terminal.shows("● a", "● b")
    assert dict(load_project(folder).data[0].labels) == {"mitochondria": "mitochondrion"}
    terminal.quit()


def test_labels_are_mended_and_what_is_left_is_one_key_away(demo: Path, terminal: Terminal) -> None:
    files = sorted((demo / "annotations" / "train").glob("*.json"))
    broken, bare = files[3], files[7]
    whole, drawn = broken.read_bytes(), bare.read_bytes()
    broken.write_bytes(b"{")
    bare.unlink()
    terminal.start(str(demo))
    terminal.shows("is truncated or no JSON", f"○ {bare.stem}")
    terminal.type("Tab", "Enter")
    terminal.shows("Export it again", "check again")
    terminal.type("Escape", "u")  # in one packet
    terminal.shows(f"▸ ! ○ {broken.stem}")
    broken.write_bytes(whole)
    terminal.shows(f"▸   ● {broken.stem}")
    terminal.type("u")
    terminal.shows(f"▸   ○ {bare.stem}")
    _wait(lambda: "is truncated" not in terminal.screen())
    bare.write_bytes(drawn)
    terminal.shows(f"● {bare.stem}")
    terminal.quit()


def test_train_leave_return_extend_compare_and_predict(demo: Path, terminal: Terminal) -> None:
    with (demo / "project.toml").open("a") as file:  # it is no matter how well it learns
        file.write('[model]\nbackbone = "mobilenetv3_small_050"\nweights = "none"\n')
    made_run(demo, sets=("model.head=pspnet",))
    terminal.start(str(demo))
    terminal.shows("run-0001")
    terminal.type("2")
    terminal.shows("training.steps", "unet/mobilenetv3_small_050")
    terminal.type("Down", "Down", "Down", "6", "Escape", "s")
    terminal.shows("run-0002")
    terminal.quit()
    terminal.start(str(demo))
    terminal.shows("run-0002", "✓ done", "6/6", limit_s=240)
    # The queue knows it a moment later than the run; a screen half drawn is no witness.
    _wait(lambda: json.loads(terminal.jobs("--json"))["jobs"][0]["state"] == "done")
    terminal.type("5")
    terminal.shows("✓ done", "machine")
    terminal.type("3", "g", "e")
    terminal.shows("To which step in all")
    terminal.type("C-u", "8", "Enter")
    terminal.shows("8/8")
    terminal.type("Space", "Down", "Space", "c")
    terminal.shows("Settings that differ", "pspnet")
    terminal.type("Escape", "6")
    terminal.shows("run-0002", "best")
    terminal.type("T", "p")
    terminal.shows("submit predict")
    terminal.type("Down", "C-u")
    terminal.write(str(demo / "images" / "val"))
    terminal.type("Enter")
    terminal.shows("is queued")
    _wait(lambda: len(list((demo / "masks").glob("*.png"))) == 3, limit_s=240)
    terminal.quit()


def test_a_hot_folder_with_failures_tells_why(demo: Path, terminal: Terminal) -> None:
    (demo / "incoming").mkdir()
    request = WatchRequest(model="best", watch="incoming", output="predictions")
    watch = new_run(demo / "runs", request, project=load_project(demo))
    say(watch, RunStarted(run=watch.id, does="watch"), WatchState(state="watching"))
    for number in (1, 2):
        reason = "is half a file: its last strip is missing. Copy it again"
        say(watch, ImageFailed(image=f"grid1_000{number}.tif", reason=reason))
    terminal.start(str(demo))
    terminal.shows("Hot folder", watch.id)
    terminal.type("4")
    terminal.shows("failed: why", "is half a file")  # the log of Runs has the reason, too
    terminal.type("Tab", "Down", "Enter")
    terminal.shows("failed: grid1", "its last strip is missing. Copy it again")
    terminal.type("Escape", "x")
    terminal.shows("othing to end")
    terminal.quit()


def test_jobs_are_moved_read_and_ended_after_a_question(demo: Path, terminal: Terminal) -> None:
    project = load_project(demo)
    with Queue.open() as queue:
        for _ in range(3):
            run = new_run(demo / "runs", TrainRequest(), project=project)
            queue.add(run.folder, project_name="demo", gpus=0)
    terminal.start(str(demo))
    terminal.shows("run-0003")
    terminal.type("5")
    terminal.shows("○ queued", "machine")
    terminal.type("Down", "u")
    terminal.shows("is number 1 of those that wait")
    terminal.type("x")
    terminal.shows("Shall it end?")
    terminal.type("Down", "Down", "Enter")
    terminal.shows("is cancelled")
    terminal.type("i")
    terminal.shows("what became of it")
    terminal.type("Escape", "o")
    terminal.shows("3 Runs", "queued")
    terminal.quit()
    with Queue.open() as queue:
        states = sorted(job.state for job in queue.list())
    assert states == ["cancelled", "queued", "queued"], json.dumps(states)
