"""GPUs as the driver tells them, and leases between processes that do not know each other."""

import getpass
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pynvml
import pytest

from emcfsys_engine.commands.foreground import gpus_for
from emcfsys_engine.errors import InputError, QueueError
from emcfsys_engine.jobs import machine as gpus
from emcfsys_engine.jobs.machine import (
    Gpu,
    Machine,
    NvmlSource,
    WantedCompute,
    choose,
    lease_holders,
    settle_request,
    usual_gpus,
)
from emcfsys_engine.launch import processes, start
from emcfsys_engine.launch import processes as leases
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest, WatchRequest
from emcfsys_engine.settings import Config, JobSettings
from tests.jobs.made import gpu_of
from tests.waiting import PATIENCE_S

GIB = 2**30


def _driver(monkeypatch: pytest.MonkeyPatch, **answers: Callable[..., Any]) -> None:
    """Let the driver's library answer so; everything else of it stays as it is."""
    for name, answer in answers.items():
        monkeypatch.setattr(gpus.nvml, name, answer)


def _no_mig(handle: Any) -> Any:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_driver_is_read_and_mig_parts_count_as_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def mig_mode(handle: str) -> tuple[int, int]:
        return (1, 1) if handle == "gpu1" else _no_mig(handle)

    def instance(handle: str, index: int) -> str:
        if index == 1:  # an empty place
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return f"{handle}-part{index}"

    def processes(handle: str) -> list[SimpleNamespace]:
        if "part" in handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [SimpleNamespace(pid=42)]

    _driver(
        monkeypatch,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu{index}",
        nvmlDeviceGetName=lambda handle: b"H100",
        nvmlDeviceGetUUID=lambda handle: f"UUID-{handle}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 * GIB, free=70 * GIB),
        nvmlDeviceGetMigMode=mig_mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda handle: 3,
        nvmlDeviceGetMigDeviceHandleByIndex=instance,
        nvmlDeviceGetComputeRunningProcesses=processes,
    )
    found = NvmlSource().read()
    assert [gpu.uuid for gpu in found] == ["UUID-gpu0", "UUID-gpu1-part0", "UUID-gpu1-part2"]
    assert [gpu.is_instance for gpu in found] == [False, True, True]
    assert (found[0].name, found[0].total_gb, found[0].process_ids) == ("H100", 80.0, (42,))
    assert found[0].is_used_by_others
    assert not found[1].is_used_by_others


def test_driver_that_stops_answering_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def count() -> int:
        calls.append("count")
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    _driver(
        monkeypatch,
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=count,
    )
    source = NvmlSource()
    assert source.read() == []
    assert source.read() == []
    assert calls == ["init", "count", "shutdown"] * 2


@pytest.mark.gpu
def test_real_driver_tells_uuids_and_memory() -> None:
    found = Machine(settings=Config()).gpus()
    assert found
    assert all(gpu.uuid.startswith(("GPU-", "MIG-")) and gpu.total_gb > 1 for gpu in found)
    assert all(0 <= gpu.free_gb <= gpu.total_gb for gpu in found)


def test_slot_files_may_be_locked_by_everybody(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        held = leases.take(tmp_path, "GPU-1", 2)
    finally:
        os.umask(before)
    assert held is not None
    files = list(tmp_path.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666}
    for descriptor in held:
        os.close(descriptor)
    assert leases.num_taken(tmp_path, "GPU-1") == 0


def test_links_and_odd_names_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    leases.slot_file(tmp_path, "GPU-1", 0).symlink_to(secret)
    leases.slot_file(tmp_path, "GPU-1", 1).mkdir()
    os.mkfifo(leases.slot_file(tmp_path, "GPU-1", 2))
    held = leases.take(tmp_path, "GPU-1", leases.NUM_SLOTS - 3)
    assert held is not None
    assert leases.take(tmp_path, "GPU-1", 1) is None
    assert leases.is_taken(leases.slot_file(tmp_path, "GPU-1", 0))
    assert secret.read_text() == "x"
    assert leases.slot_file(tmp_path, "../../etc/x", 0).parent == tmp_path
    for descriptor in held:
        os.close(descriptor)


def test_lease_dies_with_its_process_and_its_holder_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from emcfsys_engine.launch import processes as leases\n"
        "held = leases.take(Path(sys.argv[1]), 'GPU-1', 3); print(len(held), flush=True)\n"
        "sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"3\n"
        (holder,) = lease_holders(tmp_path, "GPU-1")
        assert holder.num_slots == 3
        assert (holder.pid, holder.user) in [(other.pid, getpass.getuser()), (None, "")]
        assert leases.take(tmp_path, "GPU-1", leases.NUM_SLOTS) is None
        other.send_signal(signal.SIGKILL)
    assert leases.num_taken(tmp_path, "GPU-1") == 0
    assert lease_holders(tmp_path, "GPU-1") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a second user")
def test_leases_of_two_users_exclude_each_other_in_a_sticky_folder(tmp_path: Path) -> None:
    shared = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    shared.chmod(0o1777)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from emcfsys_engine.launch import processes as leases\n"
        "os.setuid(65534); held = leases.take(Path(sys.argv[1]), 'GPU-1', int(sys.argv[2]))\n"
        "print(held is not None)"
    )
    root = Path(__file__).parents[2]

    def as_other(num_slots: int) -> str:
        command = [sys.executable, "-c", script, str(shared), str(num_slots)]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return ended.stdout.strip()

    assert as_other(8) == "True"  # the other user's files now
    held = leases.take(shared, "GPU-1", 6)
    assert held is not None
    assert as_other(3) == "False"
    assert as_other(2) == "True"
    for descriptor in held:
        os.close(descriptor)
    for file in shared.iterdir():
        file.unlink()
    shared.rmdir()


class _Late:
    """A driver that answers from the second look on."""

    def __init__(self) -> None:
        self.looks = 0

    def read(self) -> list[Gpu]:
        self.looks += 1
        return [Gpu(uuid="GPU-1", total_gb=80, free_gb=80)] if self.looks > 1 else []

    def fault(self) -> str:
        return "Driver/library version mismatch" if self.looks < 2 else ""


def test_a_driver_that_came_after_the_daemon_is_seen(tmp_path: Path) -> None:
    machine = Machine(settings=Config(), source=_Late())
    assert machine.built_in_gpus == ()
    assert [gpu.uuid for gpu in machine.built_in_gpus] == ["GPU-1"]


def test_nothing_is_queued_for_a_gpu_that_its_driver_has_lost() -> None:
    for asked in (None, 1.0):
        machine = Machine(settings=Config(), source=_Late())
        machine.source.read = list  # type: ignore[method-assign]
        with pytest.raises(QueueError, match=r"version mismatch.*modprobe nvidia"):
            settle_request(machine, WantedCompute(kind="train", gpus=asked))
        assert settle_request(machine, WantedCompute(kind="train", gpus=0)).gpus == 0


def test_a_watch_leaves_room_for_a_training_on_the_only_gpu(tmp_path: Path) -> None:
    one = [Gpu(uuid="GPU-1", total_gb=80, free_gb=80)]
    source = _Late()
    source.read = lambda: one  # type: ignore[method-assign]
    machine = Machine(settings=Config(), source=source)
    watch, training = (usual_gpus(machine, kind) for kind in ("watch", "train"))
    slots = {"GPU-1": leases.slots_for(watch)}
    busy = [msgspec.structs.replace(one[0], free_gb=78, process_ids=(7,))]
    assert choose(busy, training, slots) == ("GPU-1",)
    assert usual_gpus(_machine_of(2), "train") == 1
    assert usual_gpus(_machine_of(0), "watch") == 0


def _machine_of(number: int) -> Machine:
    source = _Late()
    gpus = [Gpu(uuid=f"GPU-{n}", total_gb=80, free_gb=80) for n in range(number)]
    source.read = lambda: gpus  # type: ignore[method-assign]
    return Machine(settings=Config(), source=source)


def test_a_run_in_the_foreground_takes_a_free_gpu_and_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Config(jobs=JobSettings(lock_folder=str(tmp_path)))
    machine = Machine(settings=settings, source=_machine_of(2).source)
    run = new_run(tmp_path / "runs", TrainRequest())
    held = leases.take(tmp_path, "GPU-0", 1)
    assert held is not None
    laid_over, lease = gpus_for(run, machine, {})
    assert laid_over == {"CUDA_VISIBLE_DEVICES": "GPU-1", leases.SHARE_VARIABLE: "1"}
    assert lease is not None
    assert lease.num_slots == {"GPU-1": leases.NUM_SLOTS}
    assert gpus_for(run, machine, {"CUDA_VISIBLE_DEVICES": "0"}) == ({}, None)
    held += leases.take(tmp_path, "GPU-1", 1) or []
    with pytest.raises(InputError, match=r"in use: GPU 0 by .*\. Submit the run"):
        gpus_for(run, machine, {})
    for descriptor in held:
        os.close(descriptor)


def test_several_processes_in_the_foreground_lock_all_of_their_gpus_or_none(
    tmp_path: Path,
) -> None:
    settings = Config(jobs=JobSettings(lock_folder=str(tmp_path)))
    machine = Machine(settings=settings, source=_machine_of(3).source)
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "."\nmasks = "."\n'
        '[compute]\ngpus = 2\n[hotfolder]\nwatch = "."\n'
    )
    project = load_project(tmp_path)
    requests = (
        (TrainRequest(), project),
        (WatchRequest(model="m", watch="in", output="out"), project),
        (PredictRequest(model="m", inputs=("i",), out="o", gpus=2), None),
    )
    held = leases.take(tmp_path, "GPU-0", 1)
    assert held is not None
    for request, of in requests:
        run = new_run(tmp_path / "runs", request, project=of)
        laid_over, lease = gpus_for(run, machine, {})
        assert laid_over["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
        assert lease is not None
        assert lease.num_slots == dict.fromkeys(("GPU-1", "GPU-2"), leases.NUM_SLOTS)
    held += leases.take(tmp_path, "GPU-1", 1) or []
    for request, of in requests:
        with pytest.raises(InputError, match="2 wanted, in use: GPU 0 by"):
            gpus_for(new_run(tmp_path / "runs", request, project=of), machine, {})
    for descriptor in held:
        os.close(descriptor)


def test_who_resumes_in_the_foreground_chooses_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    run = new_run(tmp_path / "runs", TrainRequest())
    assert run.record().environment["CUDA_VISIBLE_DEVICES"] == "1"
    told = ["sh", "-c", 'printf %s "${CUDA_VISIBLE_DEVICES-unset}" >"$0/told"']
    for now, expected in (("2,3", "2,3"), (None, "unset")):
        if now is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", now)
        with start.start(run, foreground=True, worker=told) as keeper:
            assert keeper.wait(PATIENCE_S) == 0
        assert (run.folder / "told").read_text() == expected


def test_settings_of_gpu_libraries_reach_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        *("NCCL_SOCKET_IFNAME", "TORCH_NCCL_BLOCKING_WAIT", "GLOO_SOCKET_IFNAME"),
        *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "HF_HOME"),
    )
    for name in (*names, "HF_TOKEN"):
        monkeypatch.setenv(name, "x")
    kept = new_run(tmp_path, TrainRequest()).record().environment
    assert set(names) <= set(kept)
    assert "HF_TOKEN" not in kept


def test_fraction_goes_where_others_share_already() -> None:
    gpus = [gpu_of(0), gpu_of(1, num_taken=4, free_gb=50.0)]
    assert choose(gpus, 0.25, {}) == ("GPU-1",)
    assert choose(gpus, 0.75, {}) == ("GPU-0",)


def test_gpu_of_others_is_respected() -> None:
    assert choose([gpu_of(0, process_ids=(4711,))], 1, {}) is None
    assert choose([gpu_of(0, free_gb=60.0)], 1, {}) is None  # seen by its memory only
    assert choose([gpu_of(0, num_taken=1)], 1, {}) is None
    assert choose([gpu_of(0, process_ids=(4711,), free_gb=50.0)], 0.5, {}) == ("GPU-0",)
    assert choose([gpu_of(0, process_ids=(4711,), free_gb=30.0)], 0.5, {}) is None


def test_our_slots_count_before_their_keepers_hold_them() -> None:
    assert choose([gpu_of(0)], 1, {"GPU-0": processes.NUM_SLOTS}) is None
    assert choose([gpu_of(0)], 0.5, {"GPU-0": 4}) == ("GPU-0",)
    assert choose([gpu_of(0, num_taken=4)], 0.5, {"GPU-0": 4}) == ("GPU-0",)  # the same four


def test_instances_serve_one_job_each() -> None:
    parts = [gpu_of(n, is_instance=True) for n in (0, 1)]
    assert choose(parts, 1, {}) == ("GPU-0",)
    assert choose(parts, 2, {}) is None


def test_machine_without_driver_has_no_gpu() -> None:
    class NoSource:
        def read(self) -> list[Gpu]:
            return []

    assert Machine(settings=Config(), source=NoSource()).gpus() == []
