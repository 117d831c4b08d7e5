"""Whatever stands in the way of a command, it ends: with one line, and an exit code."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.cli import cli
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.files import NO_PLAIN_FILE, reading, remedy_of
from emcfsys_engine.images.reader import find_images

_TOML = """
[project]
name = "small"
[classes]
background = 0
thing = 1
[[data]]
images = "images"
masks = "masks"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two images."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            grey = np.random.default_rng(ord(name)).integers(0, 256, (70, 70), np.uint8)
            pixels = grey if folder == "images" else grey // 128
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "project.toml").write_text(_TOML)
    return tmp_path


def _fifo(place: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place.name)
    finally:
        os.chdir(here)


def _device(place: Path) -> None:
    place.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_fifo, _socket, _device])
def test_a_pipe_socket_or_device_is_no_file_and_never_waited_for(
    make: Callable[[Path], None], project: Path
) -> None:
    for folder in ("images", "masks"):
        make(project / folder / "c.png")
    assert len(find_images("images", project)) == 2
    odd = project / "images" / "c.png"
    with pytest.raises(OSError, match=NO_PLAIN_FILE):
        reading(odd)
    (project / "elsewhere").mkdir()
    make(project / "elsewhere" / "project.toml")
    out = str(project / "out")
    for words in (
        ("inspect", odd),
        ("inspect", odd, "--verify"),
        ("convert", odd, "--to", "png", "--out", out),
        ("measure", odd, "--out", out),
        ("evaluate", odd, project),
        ("export", odd, "--format", "onnx", "--out", f"{out}.onnx"),
        ("predict", odd, project / "images", "--out", out),
        ("check", project / "elsewhere"),
        ("train", project / "elsewhere"),
    ):
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert isinstance(done.exception, EmcfError), words
        assert done.exception.exit_code == 2
        assert NO_PLAIN_FILE in str(done.exception), words
    for words in (("check", project, "--no-dry-run"), ("convert", project / "images")):
        more = ("--to", "png", "--out", out) if words[0] == "convert" else ()
        done = CliRunner().invoke(cli, [str(word) for word in (*words, *more)])
        assert done.exit_code == 0, done.output


def _said(words: str, *, close: str = "", **more: str) -> "subprocess.CompletedProcess[str]":
    command = f'exec "$0" -m emcfsys_engine {words} {close}'
    return subprocess.run(
        ["sh", "-c", command, sys.executable],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **more},
    )


def test_closed_standard_streams_end_no_work_and_take_no_file(project: Path) -> None:
    closed = _said("schema", close=">&-")
    assert (closed.returncode, closed.stderr.count("\n")) == (1, 1)
    assert "stdout is closed" in closed.stderr
    assert _said("schema", close="2>&-").returncode == 0
    assert _said(f"runs {project}/none", close="2>&-").returncode == 2
    words = f"convert {project}/images --to png --out {project}/out"
    assert _said(words, close="<&- >&- 2>&-").returncode in (0, 1)
    for name in "ab":
        with Image.open(project / "out" / f"{name}.png") as picture:
            assert picture.size == (70, 70)


def test_who_stands_in_a_folder_that_is_gone_is_told_so(project: Path) -> None:
    (project / "gone").mkdir()
    command = f'cd {project}/gone && rmdir {project}/gone && exec "$0" -m emcfsys_engine train .'
    path = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "emcfsys-engine: the folder that you stand in is gone. Change to another one: cd"
    ]


@pytest.mark.parametrize(
    "fault", ["raise ModuleNotFoundError('No module named torch')", "raise OSError('no libcudart')"]
)
def test_a_torch_that_is_missing_or_broken_is_one_line(fault: str, project: Path) -> None:
    fake = project / "fake" / "torch"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text(fault)
    path = f"{project / 'fake'}:{Path(__file__).parents[2]}"
    found = _said("doctor", PYTHONPATH=path, EMCFSYS_HOME=str(project / "home"))
    assert found.returncode == 1
    (line,) = (line for line in found.stdout.splitlines() if " torch " in line)
    assert line.startswith("fail")
    assert "pip install" in line
    models = _said("models", PYTHONPATH=path)
    assert (models.returncode, models.stderr.count("\n")) == (1, 1)
    assert _said(f"runs {project}", PYTHONPATH=path).returncode == 0


def test_room_is_asked_for_only_where_there_is_none() -> None:
    assert "space" in remedy_of(OSError(errno.ENOSPC, "full"))
    for number in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EIO, errno.EEXIST):
        assert "space" not in remedy_of(OSError(number, "no"))


def test_an_export_that_cannot_be_written_is_refused_before_the_work(project: Path) -> None:
    words = ("export", "no-model.safetensors", "--format", "onnx", "--out")
    done = CliRunner().invoke(cli, [*words, str(project / "project.toml" / "x.onnx")])
    assert isinstance(done.exception, EmcfError)
    assert "cannot be written" in str(done.exception)


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("print('x') or 3", 3),
        ("[print('x' * 9000, flush=True) for _ in range(9)] and 4", 4),  # it goes on working
        ("open('/none/x')", 1),
    ],
)
def test_a_log_on_a_full_disk_takes_no_exit_code_away(work: str, code: int) -> None:
    words = f"from emcfsys_engine.files import exit_with; exit_with(lambda words: {work}, [])"
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-c", words]
        own = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, stdout=full, stderr=full, env=own, check=False)
    assert done.returncode == code
