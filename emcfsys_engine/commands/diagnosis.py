"""What `doctor` says of jobs: daemon, queue, logout, who holds which GPU, and the cluster."""

from pathlib import Path

from emcfsys_engine.commands.diagnosis_slurm import examine_slurm
from emcfsys_engine.errors import Diagnosis, EmcfError
from emcfsys_engine.jobs import systemd
from emcfsys_engine.jobs.control import daemon_status
from emcfsys_engine.jobs.folder import network_type, state_folder
from emcfsys_engine.jobs.gpus import Gpu
from emcfsys_engine.jobs.holders import lease_holders
from emcfsys_engine.jobs.machine import Machine
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch.processes import NUM_SLOTS


def examine_jobs(folder: Path | None = None, machine: Machine | None = None) -> list[Diagnosis]:
    """Look at daemon, queue, what a logout ends, every GPU's holders, and Slurm where it is.

    It starts and makes nothing: a queue that does not exist yet is no fault.
    """
    folder = folder or state_folder()
    machine = machine or Machine()
    lines = [_daemon(folder), _queue(folder), _logout()]
    try:
        lines += [_gpu(machine.lock_folder, gpu) for gpu in machine.gpus()]
    except EmcfError as error:
        lines.append(Diagnosis(what="config", state="fail", found=str(error)))
    return [*lines, *examine_slurm()]


def _daemon(folder: Path) -> Diagnosis:
    status = daemon_status(folder)
    found = f"process {status.pid}" if status.running else "does not run; a submit starts it"
    return Diagnosis(what="job daemon", state="ok", found=found)


def _queue(folder: Path) -> Diagnosis:
    if not (folder / "queue.sqlite").exists():
        return Diagnosis(what="job queue", state="ok", found=f"none yet in {folder}")
    try:
        with Queue.open(folder) as queue:
            queue.store.check_whole()
            found = f"{len(queue.list())} jobs in {folder}"
    except EmcfError as error:
        return Diagnosis(what="job queue", state="fail", found=str(error))
    if kind := network_type(folder):
        remedy = "Set EMCFSYS_HOME to a folder on a local disk"
        return Diagnosis(what="job queue", state="warn", found=f"{found}, on {kind}", remedy=remedy)
    return Diagnosis(what="job queue", state="ok", found=found)


def _logout() -> Diagnosis:
    if systemd.kills_at_logout() and not systemd.lingers():
        found = "this machine ends your processes when you log out, jobs included"
        remedy = "Run: loginctl enable-linger, then emcfsys-engine daemon install"
        return Diagnosis(what="logout", state="warn", found=found, remedy=remedy)
    return Diagnosis(what="logout", state="ok", found="leaves jobs running")


def _gpu(lock_folder: Path, gpu: Gpu) -> Diagnosis:
    what = f"GPU {gpu.index}"
    memory = f"{gpu.name}, {gpu.free_gb:.1f} of {gpu.total_gb:.1f} GB free"
    holders = lease_holders(lock_folder, gpu.uuid)
    if holders:
        names = [
            f"{holder.user or 'an unknown user'} (process {holder.pid or '?'},"
            f" {holder.num_slots}/{NUM_SLOTS})"
            for holder in holders
        ]
        return Diagnosis(what=what, state="ok", found=f"{memory}, leased by {', '.join(names)}")
    if gpu.is_used_by_others:
        pids = ", ".join(str(pid) for pid in gpu.process_ids) or "unseen"
        found = f"{memory}, used without a lease by processes {pids}"
        remedy = "Jobs that want it whole wait for them"
        return Diagnosis(what=what, state="warn", found=found, remedy=remedy)
    return Diagnosis(what=what, state="ok", found=f"{memory}, nobody computes on it")
