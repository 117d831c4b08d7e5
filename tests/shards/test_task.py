"""A task says what keeps it from its work in one line."""

import subprocess
import sys
from pathlib import Path


def test_a_task_that_does_not_see_the_run_says_on_which_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emcfsys_engine.shards.task", str(tmp_path / "nowhere"), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not seen by" in done.stderr and "all nodes share" in done.stderr
    assert len(done.stderr.splitlines()) == 1
