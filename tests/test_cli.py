"""The table of commands: found by name, nearest ones named, one line for whatever goes wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.cli import cli


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emcfsys_engine", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_typo_is_answered_with_the_nearest_command() -> None:
    told = CliRunner().invoke(cli, ["trian"])
    assert told.exit_code == 2
    assert "'trian' is no command" in told.output
    assert "'train'" in told.output


def test_the_table_of_commands_has_a_line_for_each() -> None:
    told = CliRunner().invoke(cli, ["--help"])
    names = cli.list_commands(None)  # type: ignore[arg-type]
    assert len(names) == len(set(names))
    for name in names:
        assert f"\n  {name} " in told.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["inspect", "nowhere.tif"], 2, "nowhere.tif"),
        (["train"], 2, "Name a project"),
        (["check", "--no-such-option", "."], 2, "No such option"),
        (["export", "m.safetensors"], 2, "Choose from: onnx, torchscript, bioimageio\n"),
    ],
)
def test_what_goes_wrong_is_short_and_has_its_code(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
