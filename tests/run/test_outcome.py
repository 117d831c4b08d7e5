"""How a run ended is one decision: its folder, its job and the interface tell the same."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.transitions import outcome_of
from emcfsys_engine.launch.start import announce
from emcfsys_engine.run.events import (
    EventWriter,
    ImageDone,
    ImageFailed,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
    ValidationDone,
    end_of_events,
)
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.outcome import became_of_images
from emcfsys_engine.run.records import TrainRequest
from emcfsys_tui.engine.run_history import RunHistory


def _events(run: Run, *events: object) -> None:
    with EventWriter(run.events_file) as writer:
        for event in events:
            writer.write(event)  # type: ignore[arg-type]


def _exit(run: Run, **fields: object) -> None:
    run.exit_file.write_text(json.dumps({"format": 1, **fields}))


def _lock(run: Run, boot: str) -> None:
    run.lock_file.write_text(json.dumps({"pid": 1, "start_ticks": 1, "boot": boot}))


def _killed_by_usr2(run: Run) -> None:
    _events(run, RunStarted(run=run.id, does="train"))
    _exit(run, signal="SIGUSR2", start="second")


def _machine_restarted(run: Run) -> None:
    _events(run, RunStarted(run=run.id, does="train"))
    _lock(run, "another boot")


def _out_of_memory(run: Run) -> None:
    _events(run, RunStarted(run=run.id, does="train"))
    _exit(run, signal="SIGKILL", out_of_memory=True, start="second")


def _without_a_word(run: Run) -> None:
    _events(run, RunStarted(run=run.id, does="train"))


def _before_its_first_event(run: Run) -> None:
    _exit(run, signal="SIGSEGV", start="second")


def _finished(run: Run) -> None:
    _events(run, RunStarted(run=run.id, does="train"), RunFinished(reason="steps", step=5))


CASES: dict[str, tuple[Callable[[Run], None], str]] = {
    "SIGUSR2": (_killed_by_usr2, "interrupted"),
    "reboot": (_machine_restarted, "interrupted"),
    "kernel": (_out_of_memory, "failed"),
    "no word": (_without_a_word, "lost"),
    "no event": (_before_its_first_event, "failed"),
    "finished": (_finished, "done"),
}


@pytest.mark.parametrize("case", CASES)
def test_folder_job_and_screen_tell_the_same_end_of_a_second_start(
    case: str, tmp_path: Path
) -> None:
    end, state = CASES[case]
    run = new_run(tmp_path, TrainRequest())
    _events(run, RunStarted(run=run.id, does="train"), RunFailed(reason="first", exit_code=1))
    announce(run, "second")
    job = Job(
        id=1,
        state="running",
        run=str(run.folder),
        project="",
        kind="train",
        events_offset=end_of_events(run.events_file),
    )
    end(run)
    history = RunHistory(run)
    history.read_new()
    told = run.ended()
    assert told.state == state
    assert (history.row().state, history.row().reason) == run.outcome()
    as_job = outcome_of(run, job)
    assert (as_job.state, as_job.reason) == (told.state, told.reason)


def test_an_exit_of_an_earlier_start_says_nothing_of_a_later_one(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    announce(run, "first")
    _events(run, RunStarted(run=run.id, does="train"), RunFinished(reason="steps", step=5))
    _exit(run, exit_code=0, start="first")
    assert run.outcome() == ("done", "steps")
    announce(run, "second")  # its keeper is killed before it can take the run
    assert run.ended().state == "lost"


def test_a_clock_that_was_set_back_does_not_undo_the_end_of_a_run(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    announce(run, "only")
    _events(run, RunStarted(run=run.id, does="train"), RunFinished(reason="steps", step=5))
    _exit(run, exit_code=0, started=4e9, ended=4e9 + 1, start="only")
    assert run.outcome() == ("done", "steps")


def test_a_finished_run_of_an_older_version_stays_finished_whatever_the_clock(
    tmp_path: Path,
) -> None:
    run = new_run(tmp_path, TrainRequest())
    run.start_file.write_text('{"token": "old"}')
    _events(run, RunStarted(run=run.id, does="train"), RunFinished(reason="steps", step=5))
    _exit(run, exit_code=0, started=4e9, ended=4e9 + 1)
    assert run.outcome() == ("done", "steps")


def test_a_run_of_an_older_version_is_judged_by_its_process(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    run.start_file.write_text('{"token": "old"}')
    _events(run, RunStarted(run=run.id, does="train"), RunInterrupted(step=3))
    _exit(run, exit_code=1, started=4e9, ended=4e9 + 1)
    assert run.ended().state == "failed"


def test_the_screen_forgets_the_best_that_a_resume_made_void(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())

    def validation(step: int, score: float) -> ValidationDone:
        return ValidationDone(
            step=step,
            val_loss=1.0,
            train_loss=1.0,
            mean_iou=score,
            mean_foreground_iou=score,
            accuracy=score,
            iou={},
            f1={},
            learning_rate=1e-3,
            images_per_s=1.0,
            seconds_left=None,
            score=score,
            is_best=True,
        )

    _events(run, RunStarted(run=run.id, does="train"), validation(50, 0.5), validation(100, 0.9))
    history = RunHistory(run)
    history.read_new()
    assert (history.row().best_step, history.row().score) == (100, 0.9)
    _events(run, RunStarted(run=run.id, does="train"), RunResumed(step=50))
    history.read_new()
    assert (history.row().best_step, history.row().score) == (50, 0.5)


def test_of_each_image_counts_what_was_told_last() -> None:
    done = ImageDone(image="a", mask="a.png", seconds=1.0, shares={}, confidence=1.0)
    failed = ImageFailed(image="b", reason="is half a file")
    again = ImageFailed(image="b", reason="is no image")
    mended = msgspec.structs.replace(done, image="b")
    assert became_of_images([failed, done, again]) == [done, again]
    assert became_of_images([failed, done, RunFinished(reason="done"), mended]) == [done, mended]
