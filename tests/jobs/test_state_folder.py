"""The state folder is one a host, private, and never a folder of other things."""

import os
from pathlib import Path

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.state_folder import prepare, state_folder


def test_its_place_follows_the_environment(tmp_path: Path) -> None:
    assert state_folder({"EMCFSYS_HOME": str(tmp_path)}) == tmp_path
    found = state_folder({"XDG_STATE_HOME": str(tmp_path)})
    assert found.parent == tmp_path / "emcfsys"
    assert state_folder({"XDG_STATE_HOME": "relative"}).is_relative_to(Path.home())


def test_it_is_made_for_us_alone_and_an_open_one_of_ours_is_closed(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "queue.sqlite").touch()
    folder.chmod(0o755)
    assert prepare(folder).stat().st_mode & 0o777 == 0o700


def test_an_open_folder_of_other_things_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(QueueError, match="chmod 700"):
        prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(QueueError, match="belongs to another user"):
        prepare(tmp_path)
