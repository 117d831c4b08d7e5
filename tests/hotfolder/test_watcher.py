"""One watcher an output folder."""

import shutil
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError, WatchedError
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.watcher import watcher_of


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
