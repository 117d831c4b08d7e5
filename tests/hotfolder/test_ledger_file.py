"""Where a ledger lies, and what becomes of what is none."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.ledger_file import connect, explained, ledger_file, ledger_in


def test_a_folder_without_a_ledger_has_none_and_one_of_a_newer_version_is_refused(
    tmp_path: Path,
) -> None:
    assert ledger_in(tmp_path) is None
    file = ledger_file(tmp_path)
    file.parent.mkdir()
    connection = connect(file)
    assert ledger_in(tmp_path) == file
    with explained(file), connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="has version 99"):
        connect(file)
