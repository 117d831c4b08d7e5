"""A disk that is gone, or full, is told from a fault of what was to be written."""

import errno
from pathlib import Path

import pytest

from emcfsys_engine.errors import OutputError
from emcfsys_engine.images.outages import is_gone, is_of_disk, wait_until, why_gone
from emcfsys_engine.images.output_book import OutputBook


def _error(number: int) -> OutputError:
    return OutputError("x.png", "cannot be written", "Look at it", errno=number)


def test_a_folder_that_another_took_the_place_of_is_gone_until_it_is_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".emcfsys").mkdir(parents=True)
    book = OutputBook(out)
    assert why_gone(book) == ""
    assert not is_gone(_error(errno.EIO), book)  # it can be written: the file's own fault
    out.rename(tmp_path / "away")
    out.mkdir()
    assert "another folder lies in its place" in why_gone(book)
    assert is_gone(_error(errno.EIO), book)
    assert not is_gone(_error(errno.ENOSPC), book)  # a full disk is told otherwise
    assert not is_gone(ValueError("no fault of a disk"), book)
    out.rmdir()
    (tmp_path / "away").rename(out)
    assert why_gone(book) == ""


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_errors_of_a_disk_are_known(number: int) -> None:
    assert is_of_disk(OSError(number, "no"))
    assert is_of_disk(_error(number))
    assert not is_of_disk(ValueError("no"))


def test_who_is_asked_to_end_waits_no_longer() -> None:
    said: list[str] = []
    assert not wait_until(lambda: "it is away", lambda: "cancel", said.append)
    assert wait_until(lambda: "", lambda: None, said.append)
    assert not said
