"""A project with a hot folder, and its real worker."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import WarningGiven, WatchState
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import WatchRequest
from tests.waiting import PATIENCE_S

PROJECT = """
[project]
name = "hot"
[classes]
resin = 0
grain = 7
[[data]]
images = "incoming"
masks = "incoming"
[compute]
gpus = 0
threads = 1
[hotfolder]
watch = "incoming"
output = "predictions"
model = "{model}"
poll_s = 0.5
settle_s = 0.05
{more}
"""


class Hot:
    """A project with a hot folder."""

    def __init__(self, folder: Path, model: Path, more: str = "") -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.incoming.mkdir(exist_ok=True)
        self.output = folder / "predictions"
        (folder / "project.toml").write_text(PROJECT.format(model=model, more=more))
        self.model = model

    def image(self, name: str, seed: int = 0) -> Path:
        """Write an image by rename, so that it is whole at once."""
        file = self.incoming / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (48, 56), np.uint8)
        part = file.with_name(file.name + ".part")
        with part.open("wb") as stream:
            Image.fromarray(pixels).save(stream, "PNG")
        part.replace(file)
        return file

    def new_run(self, *, once: bool = False, recipe: str = "") -> Run:
        """Make a watch run."""
        request = WatchRequest(
            model=str(self.model),
            watch=str(self.incoming),
            output=str(self.output),
            once=once,
            recipe=recipe,
        )
        project = load_project(self.folder)
        return new_run(project.runs_folder, request, project=project)

    def masks(self) -> list[str]:
        """Return the masks' names below the output folder."""
        files = self.output.rglob("*.png")
        return sorted(str(file.relative_to(self.output)) for file in files)


@contextmanager
def watching(run: Run) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "emcfsys_engine.learn.worker", str(run.folder)]
    with run.log_file.open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as child:
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


def until(condition: Callable[[], object], child: "subprocess.Popen[bytes]", run: Run) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert child.poll() is None, run.log_file.read_text()
        assert time.monotonic() < deadline, run.log_file.read_text() + str(run.events()[-3:])
        try:
            child.wait(0.02)
        except subprocess.TimeoutExpired:
            continue


def states_of(run: Run) -> list[str]:
    return [event.state for event in run.events() if isinstance(event, WatchState)]


def details_of(run: Run) -> str:
    return "\n".join(event.detail for event in run.events() if isinstance(event, WatchState))


def warnings_of(run: Run) -> str:
    return "\n".join(event.message for event in run.events() if isinstance(event, WarningGiven))


def two_processes(hot: Hot, number: int = 2) -> None:
    file = hot.folder / "project.toml"
    file.write_text(file.read_text().replace("gpus = 0", f"gpus = 0\nprocesses = {number}"))


def images_and_masks_agree(hot: Hot, number: int) -> None:
    assert hot.masks() == sorted(f"{index}.png" for index in range(number))
    for file in hot.output.glob("*.png"):
        with Image.open(file) as mask:
            mask.load()
    entries = read_ledger(hot.output)
    assert len(entries) == number
    assert all(entry.state == "done" for entry in entries)
