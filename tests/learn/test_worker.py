"""The worker and every command end with the codes of the manual, refusals in one line."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.cli import cli
from emcfsys_engine.errors import DaemonError, InputError, RunFailedError, SlurmError
from emcfsys_engine.learn import worker
from emcfsys_engine.manual import page
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest
from tests.learn.watch.test_survival import mounted
from tests.waiting import PATIENCE_S

TABLE = {
    int(code): words
    for code, words in re.findall(r"^\| (\d+) \| (.*) \|$", page("files"), re.MULTILINE)
}


def engine(*words: object, home: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "emcfsys_engine", *map(str, words)]
    environment = {**os.environ, "EMCFSYS_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment)


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    _, said = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said.decode()


def test_the_table_names_every_code_that_an_error_of_ours_has() -> None:
    errors = (RunFailedError, InputError, DaemonError, SlurmError)
    assert {0, 130, 143} | {one.exit_code for one in errors} == set(TABLE)


def test_0_is_done_2_is_bad_input_and_3_is_no_daemon(tmp_path: Path) -> None:
    assert ended(engine("manual", home=tmp_path))[0] == 0
    for words in (("train", tmp_path / "none"), ("inspect", tmp_path / "none.tif"), ("nonsense",)):
        code, said = ended(engine(*words, home=tmp_path))
        assert code == 2, words
        assert "Traceback" not in said
    assert "no daemon" in TABLE[3]
    assert DaemonError("x").exit_code == 3


def test_1_is_a_file_that_failed_among_several(
    tmp_path: Path,
    project_folder: Path,
) -> None:
    (project_folder / "images" / "train" / "torn.png").write_bytes(b"\x89PNG torn")
    images = project_folder / "images" / "train"
    told = CliRunner().invoke(
        cli, ["convert", str(images), "--to", "png", "--out", str(tmp_path / "o")]
    )
    assert told.exit_code == 1
    assert len(list((tmp_path / "o").glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_130_is_cancelled_and_143_is_asked_to_end(
    number: signal.Signals,
    code: int,
    project_folder: Path,
) -> None:
    text = (project_folder / "project.toml").read_text().replace("steps = 8", "steps = 100000")
    (project_folder / "project.toml").write_text(text)
    process = engine("train", project_folder, home=project_folder / "home")
    events = project_folder / "runs" / "run-0001" / "events.jsonl"
    while process.poll() is None and not (events.exists() and b"step_done" in events.read_bytes()):
        with_patience(process)
    process.send_signal(number)
    assert ended(process)[0] == code


def with_patience(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        return


def test_a_worker_whose_run_is_gone_or_closed_says_one_line_and_ends_with_2(
    project_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert worker.main([str(tmp_path / "gone" / "run-0001")]) == 2
    run = new_run(project_folder / "runs", TrainRequest(), project=load_project(project_folder))
    run.events_file.mkdir()  # whatever keeps the events from being written
    assert worker.main([str(run.folder)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 2
    assert "Traceback" not in said


def files_of(place: Path) -> list[Path]:
    return sorted(file for file in place.rglob("*") if file.is_file())


@pytest.fixture
def closed(tmp_path: Path, project_folder: Path) -> Iterator[Callable[[str], Path]]:
    """A folder on a disk that is full, or may only be read; with one image in it."""
    place = tmp_path / "disk"

    def close(how: str) -> Path:
        (place / "p").mkdir()
        image = project_folder / "images" / "train" / "train0.png"
        (place / "p" / "a.png").write_bytes(image.read_bytes())
        if how == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            return place
        descriptor = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(descriptor, bytes(4096))
        except OSError:
            os.close(descriptor)
        return place

    with mounted(place, "64k"):
        yield close


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_place_that_cannot_be_written_is_one_line_and_2_and_nothing_is_half_written(
    how: str,
    closed: Callable[[str], Path],
    project_folder: Path,
    model_file: Path,
) -> None:
    place = closed(how)
    before = files_of(place)
    images, masks = project_folder / "images" / "train", project_folder / "masks" / "train"
    commands: list[tuple[object, ...]] = [
        ("new", place / "p"),
        ("convert", images, "--to", "png", "--out", place / "o1"),
        ("convert", masks, "--to", "labelme", "--images", images, "--out", place / "o2"),
        ("convert", masks, "--to", "coco", "--images", images, "--out", place / "o3"),
        ("convert", masks, "--to", "masks", "--images", images, "--out", place / "o4"),
        ("export", model_file, "--format", "torchscript", "--out", place / "m.pt"),
        ("measure", masks, "--images", images, "--out", place / "numbers"),
        ("demo", place / "demo"),
        ("check", project_folder, "--no-dry-run", "--preview", place / "x.png"),
        ("predict", model_file, images, "--out", place / "predicted"),
    ]
    for words in commands:
        told = CliRunner().invoke(cli, [str(word) for word in words])
        fault = told.exception
        assert isinstance(fault, InputError | OSError), (words, fault)
        where = str(fault.where) if isinstance(fault, InputError) else str(fault.filename)
        assert where.startswith(str(place)), (words, fault)
        assert "\n" not in str(fault)
    code, said = ended(engine(*commands[0], home=project_folder / "home"))
    assert (code, len(said.splitlines())) == (2, 1)
    assert files_of(place) == before
