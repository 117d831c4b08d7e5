"""What the batch script asks for, and what it does before the worker."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import QueueError
from tests.jobs.slurm.conftest import SlurmBench

pytestmark = pytest.mark.slurm


def test_what_slurm_could_not_do_is_refused_at_submission(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QueueError, match="whole ones"):
        bench.submit(bench.run(), gpus=0.5)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(QueueError, match="no sbatch here"):
        bench.submit(bench.run())


def test_a_prolog_runs_before_the_worker_on_the_node(bench: SlurmBench) -> None:
    place = bench.project / "told"
    bench.configure(slurm=f'prolog = ["test -e {place} || hostname >{place}"]')
    assert bench.await_state(bench.submit(bench.run()), "done", "failed").state == "done"
    assert place.read_text().strip()


def test_a_job_without_a_gpu_sees_none(bench: SlurmBench) -> None:
    run = bench.run("tell")
    assert bench.await_state(bench.submit(run, gpus=0), "done", "failed").state == "done"
    assert (run.folder / "told").read_text() == ""


def test_nothing_that_lies_in_the_submitters_folder_is_run(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there, seen = tmp_path / "data", tmp_path / "seen"
    there.mkdir()
    (there / "json.py").write_text(f"open({str(seen)!r}, 'w').close()")
    monkeypatch.chdir(there)
    run = bench.run()
    assert run.record().folder == str(there)
    assert bench.await_state(bench.submit(run), "done", "failed").state == "done"
    assert not seen.exists()
