"""Folders as they are: each file once, no devices, no leftovers, brackets in names."""

import errno
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.images.walk import (
    files_below,
    is_own_output,
    is_regular,
    is_zarr,
    names_matching,
    stamps_below,
)
from emcfsys_engine.suffixes import is_left_alone
from tests.waiting import PATIENCE_S


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


def test_what_a_run_writes_below_a_folder_of_labels_is_no_change_of_them(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    run = tmp_path / "runs" / "run-0001"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    before = set(stamps_below(tmp_path))
    (run / "events.jsonl").write_text("{}")
    (tmp_path / "predicted" / ".emcfsys").mkdir(parents=True)
    picture(tmp_path / "predicted" / "a.png")
    assert set(stamps_below(tmp_path)) == before
    picture(tmp_path / "more" / "b.png")
    assert set(stamps_below(tmp_path)) != before


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


@pytest.mark.timeout(PATIENCE_S)
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


def test_a_pattern_shows_each_image_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    picture(tmp_path / "day1" / "a.png")
    (tmp_path / "latest").symlink_to("day1")
    (tmp_path / "day1" / "up").symlink_to("..")
    for pattern in ("*/*.png", "**/*.png", "**/day1/*.png"):
        assert names(tmp_path, pattern) == ["day1/a.png"]
    assert names(tmp_path, "latest/*.png") == ["latest/a.png"]  # asked for by name


@pytest.mark.parametrize("pattern", ["*/*.png", "**/*.png", "*/b/*.png"])
def test_a_folder_that_cannot_be_listed_is_told_rather_than_left_out_of_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    picture(tmp_path / "x" / "b" / "a.png")
    picture(tmp_path / "y" / "b" / "a.png")
    listed = os.scandir

    def failing(place: str) -> Iterator[os.DirEntry[str]]:
        if Path(place) in (tmp_path / "x", tmp_path / "x" / "b"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(OSError, match="Input/output error"):
        names(tmp_path, pattern)


def test_a_pattern_fits_what_it_fits_in_pythons_glob(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/.h.png", "a/b/x.png", ".h/x.png", "b.png", "a/[z]/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = ("*", "**", "*/*", "**/*.png", "a/*", "*/b/*", "*/none/*", ".*/*", "**/b/**/*.png")
    for pattern in (*patterns, "a/[[]z]/*", "*/.h.png", "b.png/*", "none/*", "**/.*"):
        known = glob.glob(pattern, root_dir=tmp_path, recursive=True)
        expected = {str(tmp_path / one) for one in known if one}
        assert set(names_matching(tmp_path, pattern)) == expected, pattern


_NAMES = ("a", "b", "a.b", "B", "ä.png", ".hidden", "z.zarr")
_ACTS = st.tuples(
    st.sampled_from(("folder", "file", "link", "pipe", "broken")),
    st.integers(0, 5),  # in which folder of those that are there
    st.sampled_from(_NAMES),
    st.integers(0, 9),  # where a link leads
)


@settings(max_examples=60, deadline=None)
@given(acts=st.lists(_ACTS, max_size=14))
def test_what_the_listings_tell_is_what_asking_about_each_file_tells(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int, str, int]]
) -> None:
    root = tmp_path_factory.mktemp("tree") / "in"
    root.mkdir()
    folders, every = [root], [root, root.parent]
    for kind, where, name, to in acts:
        place = folders[where % len(folders)] / name
        if os.path.lexists(place):
            continue
        if kind == "folder":
            place.mkdir()
            folders.append(place)
            if name == "z.zarr":
                (place / ".zgroup").touch()
        elif kind == "file":
            place.touch()
        elif kind == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to(every[to % len(every)] if kind == "link" else "nowhere")
        every.append(place)
    assert list(files_below(root)) == asked_one_by_one(root)


def asked_one_by_one(folder: Path) -> list[Path]:
    """The simple version: each file is asked what it is."""
    found: dict[str, Path] = {}
    root = Path(os.path.realpath(folder))
    for path, linked in asked_below(folder, frozenset(), linked=False):
        real = os.path.realpath(path) if linked else str(root / path.relative_to(folder))
        if not linked or real not in found:
            found[real] = path
    return sorted(found.values())


def asked_below(
    folder: Path, above: frozenset[tuple[int, int]], *, linked: bool
) -> Iterator[tuple[Path, bool]]:
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in sorted(folder.iterdir()):
        if is_left_alone(entry.name):
            continue
        by_link = linked or entry.is_symlink()
        if entry.is_dir() and not is_zarr(entry):
            if not is_own_output(entry):
                yield from asked_below(entry, above | {here}, linked=by_link)
        elif entry.is_dir() or is_regular(entry) or not entry.exists():
            yield entry, by_link


@pytest.mark.parametrize("pattern", [".", "*.png", "**/*"])
def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(
    tmp_path: Path, pattern: str
) -> None:
    """Named by wildcards it was left out without a word: numbers were of fewer images."""
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "away" / "b.png")  # on a disk that is not mounted
    assert names(tmp_path, pattern) == ["a.png", "b.png"]
