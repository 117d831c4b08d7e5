"""clean gives back space of ended runs and touches nothing that cannot be made again."""

import fcntl
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.commands.runs import clean
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.run.events import (
    Ending,
    EventWriter,
    ImageDone,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
)
from emcfsys_engine.run.folder import ExitRecord, Run, new_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest
from emcfsys_engine.text import size
from emcfsys_engine.tools import clean_runs as clean_tool
from emcfsys_engine.tools.clean_runs import EVERY, clean_runs, parse_what

DONE = RunFinished(reason="steps")
MODELS = ("best.safetensors", "final.safetensors")

EXIT_CODES = {RunFinished: 0, RunFailed: 1, RunCancelled: 130, RunInterrupted: 143}


def make_run(place: Path, ending: Ending | None = DONE, *, days_ago: float = 0) -> Run:
    run = new_run(place / "runs", TrainRequest())
    with EventWriter(run.events_file) as writer:
        writer.write(RunStarted(run=run.id, does="train"))
        if ending is not None:
            writer.write(ending)
    for name in (*MODELS, "checkpoint-last.safetensors", "plan.json", "log.txt", "run.lock"):
        (run.folder / name).write_bytes(b"x" * 1000)
    (run.folder / ".best.safetensors.77.tmp").write_bytes(b"x" * 500)
    run.previews_folder.mkdir()
    (run.previews_folder / "step-5.png").write_bytes(b"x" * 100)
    then = time.time() - days_ago * 86_400
    run.write_record(msgspec.structs.replace(run.record(), created=then - 60))
    if ending is not None:
        exited = ExitRecord(exit_code=EXIT_CODES[type(ending)], ended=then)
        run.exit_file.write_bytes(msgspec.json.encode(exited))
    return run


def everything_in(place: Path) -> dict[str, bytes]:
    files = (file for file in place.rglob("*") if file.is_file())
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


@contextmanager
def living(run: Run) -> Generator[None]:
    with run.lock_file.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_without_yes_nothing_is_touched_and_sizes_are_shown(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = everything_in(tmp_path)
    found = clean_runs(tmp_path)
    assert everything_in(tmp_path) == before
    assert {(item.what, item.num_bytes) for item in found.items} == {
        ("checkpoints", 1000),
        ("previews", 100),
        ("temporary", 500),
    }
    assert "would remove 1.6 kB" in found.text
    assert "--yes" in found.text


@pytest.mark.parametrize("ending", [DONE, RunFailed(reason="x"), RunCancelled()])
def test_what_cannot_be_made_again_stays(tmp_path: Path, ending: Ending) -> None:
    run = make_run(tmp_path, ending)
    before = everything_in(run.folder)
    done = clean_runs(tmp_path, what=EVERY, remove=True)
    after = everything_in(run.folder)
    assert set(before) - set(after) == {
        "checkpoint-last.safetensors",
        ".best.safetensors.77.tmp",
        "previews/step-5.png",
    }
    assert {name: before[name] for name in after} == after
    assert done.num_bytes == 1600
    assert run.state() != "running"
    assert clean_runs(tmp_path, remove=True).items == ()


def test_what_lives_waits_or_can_be_resumed_is_left_alone(tmp_path: Path) -> None:
    alive, interrupted, lost = (
        make_run(tmp_path),
        make_run(tmp_path, RunInterrupted()),
        make_run(tmp_path, None),
    )
    waiting = new_run(tmp_path / "runs", TrainRequest())
    (waiting.folder / "checkpoint-last.safetensors").write_bytes(b"x")
    before = everything_in(tmp_path)
    with living(alive):
        found = clean_runs(tmp_path, what=EVERY, remove=True)
    assert everything_in(tmp_path) == before
    why = {one.name: one.why for one in found.left}
    assert why[alive.id] == "it is running"
    assert why[interrupted.id] == why[lost.id] == "it can be resumed from its checkpoint"
    assert "not started" in why[waiting.id]


@settings(max_examples=25)
@given(ages=st.lists(st.integers(0, 60), min_size=1, max_size=5), keep=st.integers(0, 6))
def test_filters_leave_the_newest_and_the_young(
    tmp_path_factory: pytest.TempPathFactory, ages: list[int], keep: int
) -> None:
    place = tmp_path_factory.mktemp("project")
    runs = [make_run(place, days_ago=age + 0.5) for age in ages]
    found = clean_runs(place, older_than_days=30, keep=keep)
    cleaned = {item.run for item in found.items}
    order = sorted(zip(ages, runs, strict=True), key=lambda pair: pair[0])
    assert all(age >= 30 for age, run in order if run.id in cleaned)
    assert len(cleaned) <= max(0, len(runs) - keep)
    if keep == 0:
        assert cleaned == {run.id for age, run in order if age >= 30}


def test_companions_go_only_when_asked_and_only_beside_their_mask(tmp_path: Path) -> None:
    out = tmp_path / "masks"
    out.mkdir()
    request = PredictRequest(model="/m", inputs=("/i",), out=str(out))
    run = new_run(out / ".emcfsys", request)
    with EventWriter(run.events_file) as writer:
        writer.write(RunStarted(run=run.id, does="predict"))
        for stem in ("a", "gone"):
            writer.write(ImageDone(image="x", mask=str(out / f"{stem}.png"), seconds=1))
        writer.write(RunFinished(reason="done"))
    mine = ("a.overlay.png", "a.prob-x.png", "a.uncertainty.png")
    others = ("a.png", "gone.overlay.png", "b.overlay.png", "a.overlay.png.txt", "a.json")
    for name in (*mine, *others):
        (out / name).write_bytes(b"x" * 10)
    every = [out / name for name in (*mine, *others)]
    OutputBook(out).note({file: digest_of_output(file) for file in every})
    assert clean_runs(out).items == ()
    done = clean_runs(out, what=("companions",), remove=True)
    assert done.num_bytes == 30
    assert {file.name for file in out.iterdir() if file.is_file()} == set(others)


def test_links_are_neither_followed_nor_removed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "picture.png").write_bytes(b"x")
    run = make_run(tmp_path)
    (run.previews_folder / "step-5.png").unlink()
    run.previews_folder.rmdir()
    run.previews_folder.symlink_to(elsewhere)
    run.checkpoint_file.unlink()
    run.checkpoint_file.symlink_to(run.best_model)
    clean_runs(tmp_path, remove=True)
    assert (elsewhere / "picture.png").exists()
    assert run.previews_folder.is_symlink()
    assert run.checkpoint_file.is_symlink()
    assert run.best_model.exists()


def test_what_a_person_laid_beside_previews_and_checkpoints_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    mine = [run.previews_folder / "for the paper.png", run.folder / "checkpoint-last.1.safetensors"]
    for file in mine:
        file.write_bytes(b"mine")
    clean_runs(tmp_path, what=EVERY, remove=True)
    assert not run.checkpoint_file.exists()
    assert [file.read_bytes() for file in mine] == [b"mine"] * 2


def test_a_damaged_run_is_named_and_left(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.record_file.write_text("{")
    found = clean_runs(tmp_path, remove=True)
    assert found.items == ()
    assert "damaged" in found.left[0].why


def test_a_place_is_a_project_a_run_or_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for place in (tmp_path, tmp_path / "runs", run.folder, run.record_file):
        assert {item.run for item in clean_runs(place).items} == {run.id}
    with pytest.raises(InputError, match="no runs"):
        clean_runs(tmp_path / "nowhere")


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    assert parse_what("previews, checkpoints") == ("previews", "checkpoints")
    with pytest.raises(InputError, match="checkpoints"):
        parse_what("checkpoint")


@given(st.integers(0, 10**15))
def test_sizes_are_short(num_bytes: int) -> None:
    assert len(size(num_bytes)) <= 9


def test_the_command_removes_with_yes_and_prints_json_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    looked = CliRunner().invoke(clean, [str(tmp_path), "--json"])
    assert json.loads(looked.stdout)["num_bytes"] == 1600
    assert run.checkpoint_file.exists()
    done = CliRunner().invoke(clean, [str(tmp_path), "--what", "checkpoints", "--yes"])
    assert done.exit_code == 0
    assert "removed 1.0 kB" in done.stdout
    assert not run.checkpoint_file.exists()
    assert run.previews_folder.exists()


def test_a_companion_that_this_program_did_not_write_is_left(tmp_path: Path) -> None:
    out, photos = tmp_path / "masks", tmp_path / "photos"
    for place in (out, photos):
        place.mkdir()
        for name in ("a.png", "a.overlay.png", "a.uncertainty.png"):
            (place / name).write_bytes(b"x" * 10)
    ours = out / "a.uncertainty.png"
    OutputBook(out).note({ours: digest_of_output(ours)})
    run = new_run(out / ".emcfsys", PredictRequest(model="/m", inputs=("/i",), out=str(out)))
    with EventWriter(run.events_file) as writer:
        writer.write(RunStarted(run=run.id, does="predict"))
        for place in (out, photos):  # a run's events may be anybody's words
            writer.write(ImageDone(image="x", mask=str(place / "a.png"), seconds=1))
        writer.write(RunFinished(reason="done"))
    (item,) = clean_runs(out, what=("companions",), remove=True).items
    assert item.files == (str(ours),)
    assert len(list(photos.iterdir())) == 3


def test_a_companion_that_a_person_changes_while_others_are_looked_at_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "masks"
    out.mkdir()
    book, ours = OutputBook(out), [out / "a.overlay.png", out / "a.uncertainty.png"]
    for file in (out / "a.png", *ours):
        file.write_bytes(b"x" * 10)
    book.note({file: digest_of_output(file) for file in ours})
    run = new_run(out / ".emcfsys", PredictRequest(model="/m", inputs=("/i",), out=str(out)))
    with EventWriter(run.events_file) as writer:
        writer.write(RunStarted(run=run.id, does="predict"))
        writer.write(ImageDone(image="x", mask=str(out / "a.png"), seconds=1))
        writer.write(RunFinished(reason="done"))
    found = clean_tool._FILES["companions"]

    def found_and_changed(run: Run) -> list[Path]:
        files = list(found(run))
        ours[0].write_bytes(b"a person painted here")
        return files

    monkeypatch.setitem(clean_tool._FILES, "companions", found_and_changed)  # pyright: ignore
    (item,) = clean_runs(out, what=("companions",), remove=True).items
    assert item.files == (str(ours[1]),)
    assert ours[0].read_bytes() == b"a person painted here"


def test_without_the_list_of_outputs_no_companion_goes_by_its_name_alone(tmp_path: Path) -> None:
    out = tmp_path / "masks"
    run = new_run(out / ".emcfsys", PredictRequest(model="/m", inputs=("/i",), out=str(out)))
    for name in ("a.png", "a.overlay.png"):
        (out / name).write_bytes(b"a person painted here")
    with EventWriter(run.events_file) as writer:
        writer.write(RunStarted(run=run.id, does="predict"))
        writer.write(ImageDone(image="x", mask=str(out / "a.png"), seconds=1))
        writer.write(RunFinished(reason="done"))
    assert clean_runs(out, what=("companions",), remove=True).items == ()
    assert (out / "a.overlay.png").exists()


def test_days_that_are_no_number_remove_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--older-than"):
        clean_runs(tmp_path, older_than_days=float("nan"), remove=True)
