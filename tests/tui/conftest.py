"""A demo project with runs that were never trained, in a world of its own."""

import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from textual.pilot import Pilot

from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import (
    Event,
    EventWriter,
    RunFinished,
    RunStarted,
    StepDone,
    ValidationDone,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.tools.demo import make_demo
from emcfsys_tui.app import EmcfApp
from emcfsys_tui.engine import jobs, runs
from emcfsys_tui.settings import Settings
from tests.waiting import PATIENCE_S

CLASSES = ("background", "membrane", "mitochondrion")


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the person's own settings, queue or caches is read or written."""
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")  # pictures do not depend on who runs the tests
    monkeypatch.delenv("COLORTERM", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def drawn_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo project, drawn once."""
    folder = tmp_path_factory.mktemp("drawn") / "demo"
    make_demo(folder)
    return folder


@pytest.fixture
def demo(drawn_demo: Path, tmp_path: Path) -> Path:
    """The demo project, without runs."""
    return Path(shutil.copytree(drawn_demo, tmp_path / "demo"))


@pytest.fixture
def project(demo: Path) -> Path:
    """The demo among the projects of the folder we stand in."""
    (demo.parent / "projects").mkdir()
    return demo.rename(demo.parent / "projects" / "demo")


@pytest.fixture
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs stay in the queue: nothing is started."""
    for module in (jobs, runs):
        monkeypatch.setattr(module, "ensure_daemon", lambda *_: None)
    monkeypatch.setattr("emcfsys_engine.jobs.control.ensure_daemon", lambda *_: None)


def step(number: int, loss: float = 1.0) -> StepDone:
    """One step of a training."""
    return StepDone(step=number, loss=loss, learning_rate=1e-3, seconds=0.1)


def validation(number: int, iou: float, *, best: bool = True) -> ValidationDone:
    """One validation of a training."""
    return ValidationDone(
        step=number,
        train_loss=1.0,
        val_loss=1.1,
        mean_iou=iou,
        mean_foreground_iou=iou,
        accuracy=iou,
        iou=dict.fromkeys(CLASSES, iou),
        f1=dict.fromkeys(CLASSES, iou),
        learning_rate=1e-3,
        images_per_s=20.0,
        seconds_left=60.0,
        score=iou,
        is_best=best,
    )


def made_run(
    folder: Path, *, steps: int = 100, ended: bool = True, sets: tuple[str, ...] = ()
) -> Run:
    """Write a run as a worker would, without the work."""
    run = new_run(folder / "runs", TrainRequest(), project=load_project(folder, sets))
    events: list[Event] = [RunStarted(run=run.id, does="train", total_steps=steps, device="cpu")]
    for number in range(1, steps + 1):
        events.append(step(number, 2.0 / number))
        if number % 20 == 0:
            events.append(validation(number, 0.5 + number / (4 * steps)))
    if ended:
        events.append(RunFinished(reason="steps", step=steps, score=0.75))
    say(run, *events)
    run.plan_file.write_bytes(msgspec.json.encode({"device": "cpu", "patch_px": 64}))
    return run


def say(run: Run, *events: Event) -> None:
    """Append events to a run."""
    with EventWriter(run.events_file) as writer:
        for event in events:
            writer.write(event)


@asynccontextmanager
async def opened(
    folder: Path | None,
    tab: str = "",
    *,
    size: tuple[int, int] = (80, 24),
    read_only: bool = False,
    settings: Settings | None = None,
) -> AsyncIterator[Pilot[None]]:
    """Open the interface, at a tab."""
    app = EmcfApp(folder, read_only=read_only, settings=settings or Settings(bell=False))
    async with app.run_test(size=size) as pilot:
        if tab:
            await pilot.press(tab)
        await pilot.pause()
        yield pilot


async def until(
    pilot: Pilot[None], condition: Callable[[], object], *, limit_s: float = PATIENCE_S
) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await pilot.pause(0.02)


def screen_text(pilot: Pilot[None]) -> str:
    """Return what is on the screen, as text."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in strips)


def told(pilot: Pilot[None]) -> str:
    """Return what the toasts say."""
    return "\n".join(toast.message for toast in pilot.app._notifications)
