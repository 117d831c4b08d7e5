"""No text of a file reaches a terminal raw, whichever command reads it; one line where it fails."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.commands.saying import say_json
from emcfsys_engine.learn.evaluate import Evaluation, Scores, table_of
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import EventWriter, RunFailed, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.text import cell_of, text_of_cell
from emcfsys_engine.tools.measure.tables import Column, csv_of

EVIL = "a\x1b]0;owned\x07\x9b31m\u202eb"
_TOML = """
[project]
name = {name}
[[data]]
images = "images/*.png"
masks = "masks/*.png"
[classes]
background = 0
{evil} = 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose every name is hostile, with a run that failed for a hostile reason."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / folder / f"{EVIL}.png")
    (tmp_path / "images" / f"{EVIL}2.png").write_bytes(b"\x89PNG but no picture")
    quoted = json.dumps(EVIL)
    (tmp_path / "project.toml").write_text(_TOML.format(name=quoted, evil=quoted))
    run = new_run(tmp_path / "runs", TrainRequest(), project=load_project(tmp_path))
    with EventWriter(run.events_file) as events:
        events.write(RunStarted(run=EVIL, does=EVIL, project=EVIL, classes=(EVIL,)))
        events.write(WarningGiven(message=EVIL))
        events.write(RunFailed(reason=f"{EVIL}\nforged line"))
    run.log_file.write_text(EVIL)
    return tmp_path


_COMMANDS = (
    "runs {p}",
    "runs {p} --json",
    "runs compare {p}/runs/run-0001 {p}/runs/run-0001",
    "runs clean {p}",
    "report {p}/runs/run-0001",
    "check {p}",
    "check {p} --json",
    "inspect {p}/images/{evil}.png",
    "inspect {p}/images/{evil}2.png",
    "inspect {p}/project.toml",
    "convert {p}/images/{evil}2.png --to png --out {p}/out",
    "measure {p}/masks --out {p}/tables",
    "new {p}",
    "train {p} --set {evil}=1",
    "train {p}/{evil}",
    "predict {p}/images --model {p}/{evil}.safetensors",
    "evaluate {p} --model {p}/{evil}.safetensors",
    "watch {p} --status",
    "export {p}/{evil}.safetensors --to onnx",
    "{evil}",
    "logs {evil}",
    "runs --{evil}",
)


def _on_a_terminal(words: list[str]) -> bytes:
    """Run a command with a terminal for stdout and stderr; return all that reached it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "emcfsys_engine", *words]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = b""
    try:
        while block := os.read(ours, 65536):
            told += block
    except OSError:  # EIO: the last writer is gone
        pass
    os.close(ours)
    child.wait()
    return told


@pytest.mark.parametrize("words", _COMMANDS)
def test_hostile_names_reach_no_terminal_raw(
    project: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMCFSYS_HOME", str(project / "state"))
    told = _on_a_terminal([word.format(p=project, evil=EVIL) for word in words.split(" ")])
    assert told
    assert b"Traceback" not in told
    text = told.decode("utf-8", "surrogateescape").replace("\r\x1b[K", "")
    for raw in ("\x1b]", "\x07", "\x9b", "\u202e"):
        assert raw not in text, told
    assert "\nforged line" not in text.replace("\r", "")


def test_the_table_of_an_evaluation_escapes_the_names_of_classes() -> None:
    numbers = {EVIL: 0.5}
    scores = Scores(
        iou=numbers,
        f1=numbers,
        precision=numbers,
        recall=numbers,
        boundary_f1=numbers,
        mean_iou=0.5,
        mean_foreground_iou=0.5,
        accuracy=0.5,
        pixels=1,
    )
    found = Evaluation(model="m", images=1, scores=scores, per_source={EVIL: scores, "b": scores})
    assert not {"\x1b", "\x07", "\x9b"} & set(table_of(found))


def test_json_for_programs_is_whole_and_holds_no_control_character(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say_json({"name": EVIL})
    told = capsys.readouterr().out
    assert json.loads(told) == {"name": EVIL}
    assert "\x9b" not in told


def test_a_cell_that_a_spreadsheet_would_execute_is_text() -> None:
    names = ['=HYPERLINK("http://evil")', "+1+cmd|' /C calc'!A0", "-x", "@SUM(A1)", "plain", "-1.5"]
    table = (Column(name="image", values=np.array(names, object)),)
    rows = list(csv.reader(io.StringIO(csv_of(table).decode())))
    assert [row[0] for row in rows[1:5]] == [f"'{name}" for name in names[:4]]
    assert [row[0] for row in rows[5:]] == names[4:]
    assert [text_of_cell(str(cell_of(name))) for name in names] == names


@pytest.mark.parametrize("stream", ["stdout", "stderr", "both"])
def test_a_full_disk_behind_the_output_gives_no_traceback(project: Path, stream: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "emcfsys_engine", "check", str(project)],
            stdout=subprocess.PIPE if stream == "stderr" else full,
            stderr=subprocess.PIPE if stream == "stdout" else full,
            check=False,
        )
    assert done.returncode == (2 if stream == "stderr" else 1)
    if stream == "stdout":
        assert done.stderr.decode().splitlines() == ["emcfsys-engine: No space left on device"]


def test_a_closed_pipe_ends_a_command_without_a_word(project: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "emcfsys_engine", "runs", str(project)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
    assert Run(project / "runs" / "run-0001").state() == "failed"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_command_that_did_its_work_says_by_its_code_whether_it_was_told(
    project: Path, stream: str
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "emcfsys_engine", "runs", str(project)],
            stdout=full if stream == "stdout" else subprocess.PIPE,
            stderr=full if stream == "stderr" else subprocess.PIPE,
            check=False,
        )
    assert done.returncode == (1 if stream == "stdout" else 0)


def test_the_story_on_a_full_disk_ends_no_work(project: Path) -> None:
    code = "from emcfsys_engine.commands.saying import say\nfor n in range(99): say(n, err=True)"
    code += "\nprint('done')"
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.stdout == b"done\n"


@pytest.mark.parametrize("words", ["new {p}/images", "convert {p}/images --to png --out {p}/out"])
def test_what_cannot_be_written_is_one_line(project: Path, words: str) -> None:
    """A limit on the size of files stands for a full disk: root may write anywhere."""
    (project / "images" / f"{EVIL}2.png").unlink()
    command = [sys.executable, "-m", "emcfsys_engine", *words.format(p=project).split(" ")]
    limited = ["sh", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "sh", *command]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert sum("emcfsys-engine:" in line or "rror" in line for line in done.stderr.split("\n")) <= 1
