"""doctor: what it says of jobs and GPUs, and what it leaves alone."""

import os

import msgspec

from emcfsys_engine.commands.doctor import examine_jobs
from emcfsys_engine.jobs.machine import Gpu
from emcfsys_engine.launch import processes
from tests.jobs.conftest import Bench


def test_doctor_names_who_holds_a_gpu(home: Bench) -> None:
    gpu = Gpu(uuid="GPU-1", name="H100", index=3, total_gb=80, free_gb=20, process_ids=(4711,))
    (home.place / "gpus.json").write_bytes(msgspec.json.encode([gpu]))
    home.configure(f'lock_folder = "{home.place}"')

    def line() -> str:
        return {found.what: found for found in examine_jobs(home.folder, home.machine)}[
            "GPU 3"
        ].found

    assert "used without a lease by processes 4711" in line()
    held = processes.take(home.place, "GPU-1", 2)
    assert held is not None
    assert "leased by" in line()
    assert "2/8" in line()
    for descriptor in held:
        os.close(descriptor)


def test_doctor_makes_no_queue(home: Bench) -> None:
    states = {found.what: found.found for found in examine_jobs(home.folder, home.machine)}
    assert states["job queue"].startswith("none yet")
    assert not home.folder.exists()
