"""What of a run's folder is the run's own."""

import shutil
from pathlib import Path

import pytest

from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import write_own
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.tools.run_contents import not_of_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with all kinds of files that runs have."""
    made = new_run(tmp_path / "runs", TrainRequest())
    for name in (
        *("best.safetensors", "final.safetensors", "checkpoint-last.safetensors", "plan.json"),
        *("events.jsonl", "exit.json", "log.txt", "run.lock", "start.json", "ask.json"),
        *("evaluation.json", "slurm.sh", "requeues.json", "saving", ".best.safetensors.17.tmp"),
        *("previews/step-0000005-a.png", "previews/step-5.png", "previews/.DS_Store"),
        *("shards/list.jsonl", "shards/00000.results"),
    ):
        file = made.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    write_own(made.folder / "report.html", b"a page", OutputBook(made.folder))
    return made


def test_all_that_runs_write_is_theirs(run: Run) -> None:
    assert not_of_run(run) is None


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "figures/3.png", "previews/for the paper.png", "previews/old/step-5.png"),
        *("checkpoint-last (copy).safetensors", "best.bak.safetensors", ".emcfsys/mine.txt"),
        *("best-adapted/project.toml", "masks/.emcfsys/outputs.jsonl", "shards/a/b.txt"),
    ],
)
def test_what_a_person_laid_there_is_found(run: Run, name: str) -> None:
    file = run.folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    found = not_of_run(run)
    assert found is not None
    assert found in (file, *file.parents)
    top = run.folder / file.relative_to(run.folder).parts[0]
    assert found == top or top.name in ("previews", ".emcfsys", "shards")


def test_a_report_that_a_person_changed_is_theirs(run: Run) -> None:
    report = run.folder / "report.html"
    report.write_bytes(b"a page with my words")
    assert not_of_run(run) == report


def test_a_link_to_another_disk_is_found_and_not_followed(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    shutil.rmtree(run.previews_folder)
    run.previews_folder.symlink_to(elsewhere)
    assert not_of_run(run) == run.previews_folder
