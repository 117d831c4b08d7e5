"""A colleague who may look but not change is told how a watch gets on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import EventWriter, ImageDone, RunStarted, WatchState
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest, WatchRequest

_WITHOUT_ROOTS_POWERS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a training and a watch that saw one image."""
    for name in ("images", "masks", "incoming", "predictions"):
        (tmp_path / name).mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "x"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
        'masks = "masks"\n[hotfolder]\nwatch = "incoming"\noutput = "predictions"\n'
    )
    loaded = load_project(tmp_path)
    new_run(tmp_path / "runs", TrainRequest(), project=loaded)
    request = WatchRequest(
        model="m", watch=str(tmp_path / "incoming"), output=str(tmp_path / "predictions")
    )
    run = new_run(tmp_path / "runs", request, project=loaded)
    with EventWriter(run.events_file) as events:
        events.write(RunStarted(run=run.id, does="watch", project="x", classes=("a", "b")))
        events.write(WatchState(state="watching", detail="here"))
        done = ImageDone(image="a.png", mask="a.png", seconds=1, shares=(1.0, 0.0), confidence=1)
        events.write(done)
    return tmp_path


@pytest.mark.parametrize(
    "words", ["watch {p} --status", "runs {p}", "jobs", "check {p} --no-dry-run"]
)
def test_looking_at_a_project_that_one_may_only_read_leaves_no_trace_and_no_traceback(
    project: Path, tmp_path_factory: pytest.TempPathFactory, words: str
) -> None:
    if os.geteuid():
        pytest.skip("only root can give a project to somebody else")
    for file in (project, *project.rglob("*")):
        os.chown(file, 65534, 65534)
    project.chmod(0o755)
    before = sorted(project.rglob("*"))
    home = tmp_path_factory.mktemp("home")
    command = words.format(p=project).split()
    told = subprocess.run(
        [*_WITHOUT_ROOTS_POWERS, sys.executable, "-m", "emcfsys_engine", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EMCFSYS_HOME": str(home), "XDG_CACHE_HOME": str(home)},
    )
    assert told.returncode == (2 if command[0] == "check" else 0), told.stderr
    assert "Traceback" not in told.stderr
    assert sorted(project.rglob("*")) == before
    if command[0] == "watch":  # its run.json is for its owner and group alone
        assert told.stdout.startswith("STOPPED here\n")
