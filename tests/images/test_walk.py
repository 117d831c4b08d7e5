"""Folders as they are: each file once, no devices, no leftovers, brackets in names."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.reader import find_images


def picture(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(file)
    return file


def names(folder: Path, pattern: str = ".") -> list[str]:
    return [ref.path.relative_to(folder).as_posix() for ref in find_images(pattern, folder)]


def test_a_loop_of_links_shows_each_image_once(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    assert names(tmp_path) == ["in/a.png"]


def test_the_same_file_by_two_ways_is_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "z" / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "z" / "a.png")
    (tmp_path / "also").symlink_to(tmp_path / "z")
    assert names(tmp_path) == ["z/a.png"]


def test_links_that_lead_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "in") == ["data/a.png"]


@pytest.mark.timeout(20)
def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.tif").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        assert names(tmp_path) == ["a.png"]
        assert names(tmp_path, "*.png") == ["a.png"]
    with pytest.raises(ImageError, match="pipe, socket or device"):
        find_images("pipe.png", tmp_path)


def test_what_systems_and_we_leave_behind_is_no_data(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for folder in ("@eaDir", "__MACOSX", ".ipynb_checkpoints", "lost+found", "runs/r1/previews"):
        picture(tmp_path / folder / "b.png")
    (tmp_path / "runs" / "r1" / "run.json").write_text("{}")
    picture(tmp_path / "predictions" / "a.png")
    (tmp_path / "predictions" / ".emcfsys").mkdir()
    for name in ("Thumbs.db", ".DS_Store", "._a.png", "desktop.ini"):
        shutil.copy(tmp_path / "a.png", tmp_path / name)
    assert names(tmp_path) == ["a.png"]
    assert names(tmp_path, "predictions") == ["predictions/a.png"]  # asked for by name


def test_a_folder_that_exists_is_a_folder_whatever_brackets_are_in_its_name(
    tmp_path: Path,
) -> None:
    picture(tmp_path / "set [2024]" / "x" / "a.png")
    picture(tmp_path / "set [2024]" / "b.png")
    assert names(tmp_path, "set [2024]") == ["set [2024]/b.png", "set [2024]/x/a.png"]
    assert names(tmp_path, "set [2024]/*.png") == ["set [2024]/b.png"]
    assert names(tmp_path, "set [[]2024]/*.png") == ["set [2024]/b.png"]
