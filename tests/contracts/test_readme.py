"""The README tells the truth: its commands exist, and the main one does what it says."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import click
import msgspec
import pytest

from emcfsys_engine.cli import cli
from emcfsys_engine.manual import page, topics
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.project_tables import TABLES, Limit, Source, json_schema
from emcfsys_engine.run.events import RunFinished
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.settings import Config, SlurmDefaults, load_config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = {name: page(name) for name in topics()}


def _commands(text: str) -> list[str]:
    return [
        line.partition("#")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for part in block.splitlines()
        for line in re.split(r"&&|>", part)
        if "emcfsys-engine" in line
    ]


COMMANDS = list(dict.fromkeys(one for text in (README, *PAGES.values()) for one in _commands(text)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_readme_and_manual_parses(command: str) -> None:
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


def _toml(topic: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", PAGES[topic], re.DOTALL)


def test_the_toml_files_of_the_manual_are_read(tmp_path: Path) -> None:
    (config,) = _toml("jobs")
    (cluster,) = _toml("cluster")
    text = _toml("project")[0]
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
    """Return the words that the manual's block says of one table, its comments included."""
    section = re.split(rf"^\[+{re.escape(table)}\]+", block, flags=re.MULTILINE)[1]
    return set(re.findall(r"\w+", re.split(r"^\[", section, flags=re.MULTILINE)[0]))


def test_every_key_of_a_project_and_of_the_users_settings_is_explained() -> None:
    (config,), project = _toml("jobs"), _toml("project")[0]
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
    assert set(SlurmDefaults.__struct_fields__) <= set(re.findall(r"\w+", PAGES["cluster"]))


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _each_command() -> Iterator[tuple[str, click.Command]]:
    waiting: list[tuple[str, click.Command]] = [("", cli)]
    while waiting:
        name, command = waiting.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            for word in command.list_commands(context):
                inner = command.get_command(context, word)
                assert inner is not None
                waiting.append((f"{name} {word}".strip(), inner))
        else:
            yield name, command


def test_every_command_has_an_example_and_every_option_a_help() -> None:
    bare = [
        f"{name} {param.opts[0]}"
        for name, command in _each_command()
        for param in command.params
        if isinstance(param, click.Option) and not param.help
    ]
    assert bare == []
    without = [
        name for name, one in _each_command() if "Example: emcfsys-engine" not in (one.help or "")
    ]
    assert without == []


def test_every_page_of_the_manual_is_listed_and_every_link_of_the_readme_leads_somewhere() -> None:
    listed = set(re.findall(r"^\| (\w+) \|", PAGES["overview"], re.MULTILINE)) - {"topic"}
    assert listed | {"overview"} == set(PAGES)
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    assert len(README.splitlines()) <= 130


def test_the_reference_names_every_key_of_a_project_with_a_sentence() -> None:
    definitions = json_schema()["$defs"]
    for kind in (*TABLES.values(), Limit, Source):
        for key in kind.__struct_fields__:
            assert f"| `{key}` |" in PAGES["project"], key
            assert definitions[kind.__name__]["properties"][key].get("description"), key


@pytest.mark.long
def test_the_demo_learns_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from emcfsys_engine.learn.training import run as training
    from tests.learn.conftest import run_here

    # What it learns of its own masks comes after all steps, and took half of the time.
    monkeypatch.setattr(training, "keep_trust", lambda *_: None)
    ignore = shutil.ignore_patterns("runs", "predictions", "incoming")
    folder = shutil.copytree(ROOT / "projects" / "demo", tmp_path / "demo", ignore=ignore)
    # Steps, not minutes: on a busy machine two minutes are too few of them.
    words = [f"training.{one}" for one in ("minutes=0", "steps=50", "validate_every=25")]
    project = load_project(folder, words)
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    assert run_here(run) == 0
    reason = run.ending()
    assert isinstance(reason, RunFinished)
    assert (reason.score or 0) >= 0.8


def _plain(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def _installed_by(extra: str) -> set[str]:
    """Return what an extra of ours brings, by what each package says that it needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    todo = [*project["dependencies"], *extras[extra], *extras["parquet"]]
    found: set[str] = set()
    while todo:
        if (name := _plain(todo.pop())) not in found and name != "emcfsys-tui":
            found.add(name)
            with suppress(metadata.PackageNotFoundError):  # of another system
                todo += [one for one in metadata.requires(name) or [] if "extra ==" not in one]
    return found


def test_the_tests_need_nothing_that_the_second_command_does_not_install() -> None:
    there, owners = _installed_by("test"), metadata.packages_distributions()
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            found = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                found = [node.module or ""]
            for name in {one.partition(".")[0] for one in found} & owners.keys():
                named = {_plain(one) for one in owners[name]}
                assert named & (there | {"emcfsys-tui"}), f"{file} imports {name}"
