"""An image that ends the watch itself holds up no other one, and is given up in the end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.scan import FoundFile
from emcfsys_engine.learn.watch.in_hand import FILE, InHand
from emcfsys_engine.run.events import WarningGiven
from emcfsys_engine.run.shards import MOST_TRIES
from tests.learn.hot import Hot
from tests.waiting import PATIENCE_S

_KILLED_BY_GIANTS = """
import os, signal, sys
from emcfsys_engine.learn import worker
from emcfsys_engine.learn.watch.planes import Here
read = Here._read
def killed_by_giants(self, plane):
    if "giant" in plane.path:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, plane)
Here._read = killed_by_giants
raise SystemExit(worker.main(sys.argv[1:]))
"""


def _seen(*paths: str) -> list[FoundFile]:
    return [FoundFile(path=path, size=1, mtime_ns=1) for path in paths]


def _killed_over(folder: Path, *ready: str) -> list[str]:
    """Be a watch that the kernel ends over what it takes; return what that was."""
    with InHand(folder).some_of(_seen(*ready)) as taken:
        noted = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(noted)
    return [one.path for one in taken]


def _taken(in_hand: InHand, *ready: str) -> list[str]:
    with in_hand.some_of(_seen(*ready)) as taken:
        return [one.path for one in taken]


def test_after_a_sudden_end_what_was_in_hand_comes_last_one_by_one(tmp_path: Path) -> None:
    assert _killed_over(tmp_path, "a", "giant") == ["a", "giant"]
    again = InHand(tmp_path)
    assert "2 images" in again.told
    assert _taken(again, "a", "giant", "new", "newer") == ["new", "newer"]
    assert _taken(again, "a", "giant") == ["a"]
    assert _killed_over(tmp_path, "giant") == ["giant"]
    assert _taken(InHand(tmp_path), "giant", "new") == ["new"]


def test_only_what_ended_a_watch_alone_and_often_is_given_up(tmp_path: Path) -> None:
    _killed_over(tmp_path, "other", "giant")
    for _ in range(MOST_TRIES):
        assert not InHand(tmp_path).blames("giant")
        _killed_over(tmp_path, "giant")
    last = InHand(tmp_path)
    assert "memory" in last.blames("giant")
    assert not last.blames("other")
    assert _taken(last, "other") == ["other"]
    assert _taken(last, "giant") == ["giant"]
    assert not last.told  # a person may ask for it again: it begins anew
    assert not InHand(tmp_path).blames("giant")


def test_an_end_that_was_asked_for_or_an_error_leaves_no_suspicion(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), InHand(tmp_path).some_of(_seen("a")):
        raise OSError("full")
    assert not InHand(tmp_path).told
    (tmp_path / FILE).write_bytes(b'{"paths": 3')
    assert not InHand(tmp_path).told
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    assert _taken(InHand(tmp_path), "a") == ["a"]
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.long
def test_an_image_that_kills_the_watch_costs_no_other_image_its_mask(
    tmp_path: Path, model_file: Path
) -> None:
    """It was taken up again for ever, and no image of the folder got a mask."""
    hot = Hot(tmp_path, model_file)
    for number, name in enumerate(("a.png", "giant.png", "z.png")):
        hot.image(name, number)
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        run = hot.new_run(once=True)
        command = [sys.executable, "-c", _KILLED_BY_GIANTS, str(run.folder)]
        codes.append(subprocess.run(command, timeout=PATIENCE_S, check=False).returncode)
        assert len(codes) <= MOST_TRIES + 2
    assert codes[-1] == 1  # one failed
    assert hot.masks() == ["a.png", "z.png"]
    (giant,) = [one for one in read_ledger(hot.output) if one.path == "giant.png"]
    assert giant.state == "failed"
    assert "memory may not suffice" in giant.reason
    said = [one.message for one in run.events() if isinstance(one, WarningGiven)]
    assert any("ended suddenly" in one for one in said)
