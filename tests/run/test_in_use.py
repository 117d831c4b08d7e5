"""A file that some process uses is told from one that nobody does."""

import subprocess
import sys
from pathlib import Path

from emcfsys_engine.run.in_use import InUse, is_in_use

_USE = "from emcfsys_engine.run.in_use import *; x = InUse([Path(r'{file}')]); print(1); input()"


def test_a_file_is_in_use_until_the_last_process_ends_that_uses_it(tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    file.write_bytes(b"a model")
    mine = InUse([file])
    command = [sys.executable, "-c", "from pathlib import Path; " + _USE.format(file=file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "1\n"
        mine.end()
        assert is_in_use(file)
        child.kill()
    assert not is_in_use(file)


def test_what_is_not_there_or_only_named_by_a_link_is_not_in_use(tmp_path: Path) -> None:
    file, link = tmp_path / "best.safetensors", tmp_path / "link"
    held = InUse([file, tmp_path])
    assert not is_in_use(file)
    held.end()
    file.write_bytes(b"a model")
    link.symlink_to(file)
    held = InUse([link])
    assert is_in_use(file)
    assert not is_in_use(link)
    del held
    assert not is_in_use(file)
