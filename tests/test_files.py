"""Files are written whole or not at all, and never through a link that somebody laid."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emcfsys_engine.files import (
    DiskFullError,
    begin_new,
    changed_ns,
    file_system_of,
    identity_of,
    is_full,
    is_network,
    mount_point_of,
    next_lines,
    open_own,
    read_own,
    reading,
    reading_own,
    remedy_of,
    temporary_of,
    write_whole,
)


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_whole(file, b"old")
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    write_whole(file, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(file, b"new")
    assert is_full(error.value)
    assert "room" in remedy_of(error.value) or "space" in remedy_of(error.value)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_temporary_name_is_hidden_and_never_too_long(tmp_path: Path) -> None:
    name = "ü" * 127 + "a"  # 255 bytes
    temporary = temporary_of(tmp_path / name)
    assert temporary.name.startswith(".")
    assert len(os.fsencode(temporary.name)) <= 255
    with begin_new(temporary) as stream:
        stream.write(b"x")
    assert temporary.read_bytes() == b"x"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_lies_in_a_files_place_is_neither_read_nor_written(kind: str, tmp_path: Path) -> None:
    place, other = tmp_path / "events.jsonl", tmp_path / "precious"
    other.write_bytes(b"precious")
    if kind == "link":
        place.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(OSError, match="events"):
        os.close(open_own(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    with pytest.raises(OSError, match="events"):
        read_own(place)
    with pytest.raises(OSError, match="events"):
        reading_own(place).close()
    assert other.read_bytes() == b"precious"


def test_a_pipe_that_a_person_names_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        reading(tmp_path / "pipe").close()


def test_only_whole_lines_are_given_out(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"one\ntwo\nthr")
    with reading_own(file) as stream:
        assert next_lines(stream) == b"one\ntwo\n"
        assert next_lines(stream) == b""
        with file.open("ab") as more:
            more.write(b"ee\n")
        assert next_lines(stream) == b"three\n"


def test_places_are_known_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert identity_of(tmp_path / "link") == identity_of(tmp_path)
    assert identity_of(tmp_path / "none") is None
    assert file_system_of(tmp_path / "not" / "yet") == file_system_of(tmp_path)
    assert tmp_path.is_relative_to(mount_point_of(tmp_path))
    assert [is_network(kind) for kind in ("nfs4", "cifs", "ext4", "tmpfs")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_what_is_not_there_was_never_changed(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert changed_ns(file) == 0
    file.write_bytes(b"a")
    os.utime(file, ns=(1, 2_000_000_001))
    assert changed_ns(file) == 2_000_000_001


def test_a_full_disk_is_an_error_of_the_disk() -> None:
    assert is_full(DiskFullError("/out"))
    assert not is_full(OSError(5, "Input/output error"))


def test_a_file_that_a_hard_link_shares_is_refused_and_a_copy_in_its_place_is_the_remedy(
    tmp_path: Path,
) -> None:
    """As after `cp -al`: writing into the one folder would write into the other."""
    book = tmp_path / "outputs.jsonl"
    book.write_bytes(b"{}")
    os.link(book, tmp_path / "copy.jsonl")
    with pytest.raises(OSError, match="has a second name") as error:
        open_own(book, os.O_RDWR)
    assert "put a copy" in remedy_of(error.value)
    shutil.copy(book, tmp_path / "own")
    (tmp_path / "own").replace(book)
    os.close(open_own(book, os.O_RDWR))


def test_processes_of_one_number_on_two_machines_write_under_two_names() -> None:
    code = "import os; from pathlib import Path; os.getpid = lambda: 1;"
    code += "from emcfsys_engine.files import temporary_of; print(temporary_of(Path('x.png')))"
    names = {subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(3)}
    assert len(names) == 3
