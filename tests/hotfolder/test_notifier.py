"""Hints of what changed in a folder, from the system where it gives them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from emcfsys_engine.hotfolder import notifier
from emcfsys_engine.hotfolder.notifier import Waker, choose_backend
from tests.waiting import PATIENCE_S


@pytest.fixture
def waker(tmp_path: Path) -> Iterator[Waker]:
    made = Waker(tmp_path / "incoming")
    (tmp_path / "incoming").mkdir()
    assert made.ensure_watching()
    yield made
    made.close()


def hint_of(waker: Waker, name: str) -> bool:
    """Return whether a file was said to be closed, once it was named at all."""
    closed = {}
    while name not in closed or not closed[name]:
        hints = waker.wait(PATIENCE_S)
        assert hints, f"{name} was never named: {closed}"
        closed |= dict(hints)
    return closed[name]


@pytest.mark.parametrize(("kind", "backend"), [("nfs4", "polling"), ("ext4", "events")])
def test_events_are_not_waited_for_where_none_cross(
    kind: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "file_system_of", lambda place: kind)
    chosen, why = choose_backend(tmp_path, "auto")
    assert chosen == backend
    assert kind in why


def test_what_a_person_chose_is_kept(tmp_path: Path) -> None:
    assert choose_backend(tmp_path, "polling")[0] == "polling"


def test_a_written_and_a_moved_file_are_named_below_the_folder(
    waker: Waker, tmp_path: Path
) -> None:
    (tmp_path / "incoming" / "sub").mkdir()
    (tmp_path / "incoming" / "a.tif").write_bytes(b"pixels")
    assert hint_of(waker, "a.tif")
    (tmp_path / "elsewhere.tif").write_bytes(b"pixels")
    (tmp_path / "elsewhere.tif").rename(tmp_path / "incoming" / "b.tif")
    assert hint_of(waker, "b.tif")


def test_a_folder_that_was_replaced_is_watched_anew_and_one_that_is_gone_is_not(
    waker: Waker, tmp_path: Path
) -> None:
    folder = tmp_path / "incoming"
    folder.rename(tmp_path / "old")
    assert not waker.ensure_watching()
    folder.mkdir()
    assert waker.ensure_watching()
    (folder / "c.tif").write_bytes(b"pixels")
    assert hint_of(waker, "c.tif")
