"""Where a hot folder reads and writes never meets, whatever the paths look like."""

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from emcfsys_engine.errors import InputError, OutputError, WatchedError
from emcfsys_engine.files import try_to_write
from emcfsys_engine.hotfolder import places
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.places import (
    device_of,
    is_inside,
    name_below,
    refuse_places,
    watcher_of,
    why_not,
)


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def test_masks_may_go_beside_the_images_and_into_a_folder_among_them(incoming: Path) -> None:
    assert why_not(incoming, incoming.with_name("predictions")) == ""
    assert why_not(incoming, incoming / "masks") == ""


def test_the_watched_folder_is_no_output_by_any_of_its_names(incoming: Path) -> None:
    link = incoming.with_name("predictions")
    link.symlink_to(incoming)
    for name in (incoming, link, incoming.parent / "x" / ".." / "incoming"):
        assert "is the watched folder itself" in why_not(incoming, name)
    with pytest.raises(InputError, match="Choose another output folder"):
        refuse_places(incoming, link)


def test_an_output_that_holds_the_watched_folder_would_hide_every_image(incoming: Path) -> None:
    assert "no image in it would ever be seen" in why_not(incoming, incoming.parent)


def test_a_file_behind_a_link_is_inside_the_folder_that_it_leads_to(incoming: Path) -> None:
    link = incoming.with_name("link")
    link.symlink_to(incoming)
    assert is_inside(link / "a.tif", incoming)
    assert not is_inside(incoming.with_name("incoming-2") / "a.tif", incoming)


def test_a_place_is_tried_without_a_trace(incoming: Path) -> None:
    try_to_write(incoming)
    assert list(incoming.iterdir()) == []
    with pytest.raises(OSError, match="gone"):
        try_to_write(incoming / "gone")
    assert device_of(incoming / "gone" / "too") == incoming.stat().st_dev


def test_an_image_is_known_by_its_name_below_whatever_way_its_path_takes(tmp_path: Path) -> None:
    (tmp_path / "data" / "grid").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    roots = [tmp_path / "data", tmp_path / "project" / ".." / "data", tmp_path / "link"]
    for root in roots:
        for other in roots:
            assert name_below(root, f"{other}/grid/a.tif") == "grid/a.tif"
        assert name_below(root, "grid/a.tif") == "grid/a.tif"
        assert name_below(root, "./b.tif") == "b.tif"


def test_a_second_watcher_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    assert watcher_of(tmp_path) is None
    ledger = Ledger(tmp_path, owner="run-0001")
    with pytest.raises(InputError, match="run-0001"):
        Ledger(tmp_path, owner="run-0002")
    assert "run-0001" in (watcher_of(tmp_path) or "")
    ledger.close()
    assert watcher_of(tmp_path) is None


@pytest.mark.parametrize("removed", [".emcfsys", ".emcfsys/watch.lock"])
def test_no_second_watcher_is_let_in_because_the_lock_was_removed(
    tmp_path: Path, removed: str
) -> None:
    first = Ledger(tmp_path, owner="run-0001")
    gone = tmp_path / removed
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    with pytest.raises(WatchedError):
        Ledger(tmp_path, owner="run-0002")
    assert watcher_of(tmp_path) is not None
    first.close()


def test_a_watch_whose_place_cannot_be_seen_for_a_moment_does_not_meet_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(place: Path) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(place))

    ledger = Ledger(tmp_path, owner="run-0001")
    with monkeypatch.context() as patch:
        patch.setattr(places, "os", SimpleNamespace(**{**vars(os), "stat": stale}))
        with pytest.raises(OutputError, match="Stale file handle") as caught:
            ledger.make_again({}, tmp_path)
        assert caught.value.errno == errno.ESTALE  # so it is waited for
    ledger.make_again({}, tmp_path)
    with pytest.raises(WatchedError):
        Ledger(tmp_path, owner="run-0002")
    ledger.close()
