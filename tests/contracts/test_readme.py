"""The README tells the truth: its commands exist, and the main one does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

from emcfsys_engine.cli import cli
from emcfsys_engine.project import Project, Source, load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.settings import Config, SlurmDefaults, load_config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for part in block.splitlines()
    for line in part.split("&&")
    if "emcfsys-engine" in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_parses(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "emcfsys-engine"
    context = click.Context(cli)
    group: click.Command = cli
    rest = words[1:]
    while isinstance(group, click.Group):
        _, found, rest = group.resolve_command(context, rest)
        assert found is not None
        group = found
    group.make_context(words[1], list(rest), resilient_parsing=False)


def test_the_project_toml_of_the_readme_is_one(tmp_path: Path) -> None:
    config, cluster, text = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "config.toml").write_text(config)
    assert load_config(tmp_path / "config.toml").jobs.grace_s == 30
    (tmp_path / "config.toml").write_text(f"{config}\n{cluster}")
    assert load_config(tmp_path / "config.toml").slurm.partition == "gpu"
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    text = text.replace("\nminutes", "\n# minutes")
    (tmp_path / "project.toml").write_text(text)
    project = load_project(tmp_path)
    assert project.name == "superalloy"
    assert project.data[0].group


def _explained(block: str, table: str) -> set[str]:
    """Return the words that the README's block says of one table, its comments included."""
    section = re.split(rf"^\[+{re.escape(table)}\]+", block, flags=re.MULTILINE)[1]
    return set(re.findall(r"\w+", re.split(r"^\[", section, flags=re.MULTILINE)[0]))


def test_every_key_of_a_project_and_of_the_users_settings_is_explained() -> None:
    config, _, project = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    tables = {field.name: field.type for field in msgspec.structs.fields(Project)}
    kinds = {name: kind for name, kind in tables.items() if _is_struct(kind)}
    assert {"model", "training", "hotfolder", "compute"} <= kinds.keys()
    for name, kind in [*kinds.items(), ("data", Source)]:
        keys = set(kind.__struct_fields__) - {"slurm", "labels"}  # tables of their own
        assert keys <= _explained(project, name), f"[{name}] {keys - _explained(project, name)}"
    for field in msgspec.structs.fields(Config):
        if _is_struct(field.type) and field.name != "slurm":
            keys = set(field.type.__struct_fields__)
            assert keys <= _explained(config, field.name), field.name
    cluster = README.partition("## On a cluster")[2].partition("\n## ")[0]
    assert set(SlurmDefaults.__struct_fields__) <= set(re.findall(r"\w+", cluster))


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def test_every_option_of_help_is_explained_and_every_command_has_an_example() -> None:
    from emcfsys_engine.cli import _COMMANDS

    context = click.Context(cli)
    for name in _COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert "Example: emcfsys-engine" in (command.help or "") or isinstance(command, click.Group)


@pytest.mark.long
def test_the_demo_learns_what_the_readme_says(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "demo"
    ignore = shutil.ignore_patterns("runs", "predictions", "incoming")
    shutil.copytree(ROOT / "projects" / "demo", folder, ignore=ignore)
    command = [sys.executable, "-m", "emcfsys_engine", "train", str(folder / "project.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    reason = Run(Path(done.stdout.splitlines()[-1])).ending()
    assert reason is not None
    assert (reason.score or 0) >= 0.85  # type: ignore[union-attr]
