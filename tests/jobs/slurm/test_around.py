"""Around jobs on Slurm: doctor, the table, the interface, accounts, what may be asked."""

import pytest

from emcfsys_engine.commands.doctor import examine_slurm
from emcfsys_engine.commands.jobs import table_of
from emcfsys_tui.engine.jobs import QueueReader
from tests.jobs.slurm.conftest import Slurm, SlurmBench

pytestmark = pytest.mark.slurm


def test_doctor_sees_the_cluster(slurm: Slurm) -> None:
    lines = {line.what: line for line in examine_slurm()}
    assert {line.state for line in lines.values()} == {"ok"}
    assert "controller answers" in lines["Slurm"].found
    assert lines["Slurm partitions"].found == "gpu (default), urgent"
    assert lines["Slurm GPUs"].found == "gpu: 2 × 2, urgent: 2 × 2"
    assert "off" in lines["Slurm accounting"].found
    assert "scancel kills after 5 s" in lines["Slurm's grace"].found


def test_doctor_says_that_there_is_no_slurm_and_that_none_answers(slurm: Slurm) -> None:
    assert examine_slurm({"PATH": "/nowhere"})[0].state == "ok"
    slurm.kill_controller()
    try:
        line = examine_slurm()[0]
    finally:
        slurm.start_controller()
    assert line.state == "fail"
    assert "controller" in line.found


def test_table_and_interface_show_why_a_job_waits_and_until_when(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.configure(slurm='extra = ["--begin=now+1hour"]')
    job_id = bench.submit(bench.run())
    local = bench.add(bench.run())
    job = bench.await_reason(job_id, "begin time; expected at")
    bench.await_state(local, "done")
    told = table_of(bench.queue.list())
    assert f"Slurm {job.slurm_id}: waits for its begin time; expected at" in told
    monkeypatch.setenv("EMCFSYS_HOME", str(bench.folder))
    shown = QueueReader().read()
    assert shown is not None
    rows = {row.id: row for row in shown.queue.jobs}
    assert rows[job_id].reason == job.reason
    assert (rows[job_id].state, rows[local].state) == ("queued", "done")
