"""A prediction in shards is one job of the queue, and an array on a real Slurm."""

from pathlib import Path

import pytest

from emcfsys_engine.jobs.control import ensure_daemon, stop_daemon
from emcfsys_engine.jobs.queue import Options, Queue, submit_run
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import EVALUATION, MeasureRequest
from emcfsys_engine.run.shards import Shards
from emcfsys_engine.tools.convert.conversion import convert_labels
from emcfsys_engine.tools.convert.in_shards import result_of as converted
from emcfsys_engine.tools.measure.in_shards import result_of
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import Slurm
from tests.jobs.slurm.test_training import WAIT_S, world
from tests.learn.conftest import model_file, project_folder, run_here
from tests.learn.inference.test_shards import images, request_of, told, told_of_all
from tests.learn.test_evaluate_shards import model
from tests.learn.test_evaluate_shards import run_of as evaluation_of
from tests.shards.made import made_in
from tests.tools.convert.made import alike, masks_at, run_of
from tests.tools.drawn_masks import blobs, save_mask

pytestmark = pytest.mark.slurm
__all__ = ["images", "model", "model_file", "project_folder", "world"]


def _run(images: Path, model: Path, out: str, shards: int) -> Run:
    request = request_of(images, model, out, shards, shards_at_once=2, vectors=("coco",))
    return new_run(images.parent / out / ".emcfsys", request)


def _submitted(queue: Queue, run: Run) -> int:
    asked = Options(slurm=True, gpus=0, cpus=1)
    number = submit_run(queue, run, "shards", None, asked)
    ensure_daemon(queue.folder)
    return number


def _ended(queue: Queue, number: int) -> str:
    wait_for(lambda: not queue.get(number).is_open, seconds=WAIT_S, what="its end")
    return queue.get(number).state


def test_an_array_makes_what_one_process_makes_as_one_job_though_a_task_is_lost(
    images: Path, model_file: Path, slurm: Slurm
) -> None:
    one, several = _run(images, model_file, "one", 1), _run(images, model_file, "out", 3)
    assert run_here(one) == 1
    with Queue.open() as queue:
        try:
            number = _submitted(queue, several)
            wait_for(
                lambda: queue.get(number).slurm_id.isdecimal(), seconds=WAIT_S, what="its number"
            )
            name = queue.get(number).tasks_name
            array = slurm.ask("squeue", "-h", "-n", name, "-o", "%A").split()[0]
            slurm.ask("scancel", f"{array}_2")  # a task that never starts, or is lost
            wait_for(
                lambda: "of 7 images" in queue.get(number).reason, seconds=WAIT_S, what="progress"
            )
            assert queue.get(number).state == "running"
            assert _ended(queue, number) == "done"  # one image is none: it is told
            states = [line.state for line in queue.history(number)]
        finally:
            stop_daemon(queue.folder)
    assert told(several) == told(one) == told_of_all()
    assert made_in(images.parent / "out") == made_in(images.parent / "one")
    assert list(dict.fromkeys(states)) == ["queued", "running", "done"]
    assert states.index("running") > max(n for n, one in enumerate(states) if one == "queued")
    assert len(slurm.calls("sbatch")) == 2
    assert (Shards(several).folder / "0.log").exists()


def test_a_cancelled_job_takes_its_tasks_with_it(
    images: Path, model_file: Path, slurm: Slurm
) -> None:
    run = _run(images, model_file, "out", 3)
    with Queue.open() as queue:
        try:
            number = _submitted(queue, run)
            wait_for(lambda: queue.get(number).state == "running", seconds=WAIT_S, what="a task")
            queue.cancel(number)
            assert _ended(queue, number) == "cancelled"
            wait_for(lambda: not slurm.ask("squeue", "-h"), seconds=WAIT_S, what="no task")
        finally:
            stop_daemon(queue.folder)


def test_a_measurement_is_one_job_of_an_array_that_finds_what_one_process_finds(
    tmp_path: Path, slurm: Slurm
) -> None:
    for number in range(7):
        save_mask(tmp_path / f"masks/{number}.png", blobs(number), (5.0, 5.0))
    alone = measure_masks(str(tmp_path / "masks"), tmp_path / "one", MeasureSettings())
    out = tmp_path / "out"
    request = MeasureRequest(
        masks=str(tmp_path / "masks"), out=str(out), shards=3, shards_at_once=2
    )
    run = new_run(out / ".emcfsys", request)
    with Queue.open() as queue:
        try:
            number = submit_run(queue, run, "numbers", None, Options(slurm=True, cpus=1))
            ensure_daemon(queue.folder)
            assert _ended(queue, number) == "done"
            job = queue.get(number)
        finally:
            stop_daemon(queue.folder)
    assert (job.kind, job.gpus) == ("measure", 0.0)
    found = result_of(run)
    assert str(found).replace(str(out), str(tmp_path / "one")) == str(alone)
    assert made_in(out) == made_in(tmp_path / "one")
    assert len(slurm.calls("sbatch")) == 2
    assert (Shards(run).folder / "0.log").exists()


def test_a_conversion_is_one_job_of_an_array_that_makes_what_one_process_makes(
    tmp_path: Path, slurm: Slurm
) -> None:
    source, out = masks_at(tmp_path), tmp_path / "out"
    alone = convert_labels(str(source), tmp_path / "one", to="coco")
    run = run_of(source, out, "coco", shards_at_once=2)
    with Queue.open() as queue:
        try:
            number = submit_run(queue, run, "labels", None, Options(slurm=True, cpus=1))
            ensure_daemon(queue.folder)
            assert _ended(queue, number) == "done"
            job = queue.get(number)
        finally:
            stop_daemon(queue.folder)
    assert (job.kind, job.gpus) == ("convert", 0.0)
    assert alike(converted(run), out) == alike(alone, tmp_path / "one")
    assert made_in(out) == made_in(tmp_path / "one")
    assert len(slurm.calls("sbatch")) == 2


def test_an_evaluation_is_one_job_of_an_array_with_the_scores_of_one_process(
    model: Path, project_folder: Path, slurm: Slurm
) -> None:
    alone = evaluation_of(model, project_folder, "1", "one")
    assert run_here(alone) == 0
    run = evaluation_of(model, project_folder, "3%2")
    with Queue.open() as queue:
        try:
            number = submit_run(queue, run, "scores", None, Options(slurm=True, gpus=0, cpus=1))
            ensure_daemon(queue.folder)
            assert _ended(queue, number) == "done"
            job = queue.get(number)
        finally:
            stop_daemon(queue.folder)
    assert job.kind == "evaluate"
    scores = (project_folder / "out" / EVALUATION).read_bytes()
    assert scores == (project_folder / "one" / EVALUATION).read_bytes()
    assert len(slurm.calls("sbatch")) == 2
    assert (Shards(run).folder / "0.log").exists()
