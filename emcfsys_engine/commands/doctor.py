"""What this machine is able to do, as lines with a remedy each; torch's part is learn.device."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import click

from emcfsys_engine.commands.saying import say, say_json
from emcfsys_engine.errors import Diagnosis, EmcfError, SlurmError
from emcfsys_engine.files import file_system_of, is_network, nearest_existing
from emcfsys_engine.jobs import systemd
from emcfsys_engine.jobs.control import daemon_status
from emcfsys_engine.jobs.machine import Gpu, Machine, lease_holders
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.jobs.slurm import client as commands
from emcfsys_engine.jobs.slurm.client import Partition
from emcfsys_engine.jobs.state_folder import network_type, state_folder
from emcfsys_engine.launch.processes import NUM_SLOTS
from emcfsys_engine.memory_limit import memory_bytes
from emcfsys_engine.settings import load_config
from emcfsys_engine.text import how_many


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
            found = f"{how_many(len(queue.list()), 'job')} in {folder}"
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


def examine_slurm(environment: Mapping[str, str] = os.environ) -> list[Diagnosis]:
    """Look at the cluster from here; a machine without Slurm is no fault."""
    cluster = commands.find_cluster(environment)
    if cluster is None:
        return [Diagnosis(what="Slurm", state="ok", found="none here; jobs run on this machine")]
    try:
        version = commands.version(cluster)
        found = commands.partitions(cluster)
        accounts = commands.has_accounting(cluster)
        kill_wait_s = commands.kill_wait_s(cluster)
    except SlurmError as error:
        remedy = "Check SLURM_CONF and munge, or ask the cluster's administrators"
        return [Diagnosis(what="Slurm", state="fail", found=str(error), remedy=remedy)]
    lines = [Diagnosis(what="Slurm", state="ok", found=f"{version}, its controller answers")]
    lines.append(_partitions(found))
    lines.append(_gpus(found))
    if kill_wait_s is not None:
        kills = (
            f"scancel kills after {kill_wait_s} s; emcfsys-engine cancel waits while a job saves"
        )
        lines.append(Diagnosis(what="Slurm's grace", state="ok", found=kills))
    word = "on" if accounts else "off: how a job ended is read from its run's folder"
    return [*lines, Diagnosis(what="Slurm accounting", state="ok", found=word)]


def _partitions(found: Sequence[Partition]) -> Diagnosis:
    names = list(dict.fromkeys(_named(one) for one in found))
    what, text = "Slurm partitions", ", ".join(names) or "none"
    try:
        wanted = load_config().slurm.partition
    except EmcfError as error:
        return Diagnosis(what=what, state="fail", found=str(error))
    known = {one.name for one in found}
    if wanted and not set(wanted.split(",")) <= known:
        remedy = f"Name one of {', '.join(sorted(known))} in [slurm] of config.toml"
        return Diagnosis(what=what, state="fail", found=f"{wanted!r} is none", remedy=remedy)
    if not wanted and not any(one.is_default for one in found):
        remedy = 'Write partition = "…" into [slurm] of config.toml: none is the default'
        return Diagnosis(what=what, state="warn", found=text, remedy=remedy)
    return Diagnosis(what=what, state="ok", found=text)


def _gpus(found: Sequence[Partition]) -> Diagnosis:
    with_gpus = [one for one in found if one.gpus]
    if not with_gpus:
        remedy = "Trainings will compute on processors; ask whether gres names the GPUs"
        return Diagnosis(what="Slurm GPUs", state="warn", found="none in gres", remedy=remedy)
    each = [f"{one.name}: {one.num_nodes} × {one.gpus}" for one in with_gpus]
    return Diagnosis(what="Slurm GPUs", state="ok", found=", ".join(each))


def _named(partition: Partition) -> str:
    state = "" if partition.is_up else " (down)"
    return f"{partition.name}{' (default)' if partition.is_default else ''}{state}"


def examine(project: str | None = None) -> list[Diagnosis]:
    """Look at Python, memory, processor, disks, state folder and terminal."""
    lines = [_python(), _package(), _memory(), _processor()]
    state = Path(os.environ.get("EMCFSYS_HOME") or Path.home())
    places = {"home": state, "project": Path(project) if project else Path.cwd()}
    for name, place in places.items():
        lines += [_disk(name, place), _file_system(name, place)]
    lines += [_shared_memory(), _terminal()]
    return lines


def _python() -> Diagnosis:
    version = sys.version.split()[0]
    return Diagnosis(what="Python", state="ok", found=f"{version} at {sys.executable}")


def _package() -> Diagnosis:
    try:
        found = metadata.version("emcfsys-tui")
    except metadata.PackageNotFoundError:
        remedy = "pip install . in the project's checkout"
        return Diagnosis(what="emcfsys-tui", state="warn", found="not installed", remedy=remedy)
    return Diagnosis(what="emcfsys-tui", state="ok", found=found)


def _memory() -> Diagnosis:
    total, available = memory_bytes()
    text = f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if available < 2 * 2**30:
        remedy = "End other programs, or train with a smaller batch"
        return Diagnosis(what="memory", state="warn", found=text, remedy=remedy)
    return Diagnosis(what="memory", state="ok", found=text)


def _processor() -> Diagnosis:
    cores = len(os.sched_getaffinity(0))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fast = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    found = f"{cores} cores, bf16 by {', '.join(fast)}" if fast else f"{cores} cores, no fast bf16"
    return Diagnosis(what="processor", state="ok", found=found)


def _disk(name: str, place: Path) -> Diagnosis:
    free = shutil.disk_usage(nearest_existing(place)).free / 2**30
    text = f"{free:.1f} GiB free at {place}"
    if free < 1:
        return Diagnosis(what=f"{name} disk", state="fail", found=text, remedy="Free some space")
    state: Literal["ok", "warn"] = "warn" if free < 10 else "ok"
    remedy = "Free some space soon" if state == "warn" else ""
    return Diagnosis(what=f"{name} disk", state=state, found=text, remedy=remedy)


def _file_system(name: str, place: Path) -> Diagnosis:
    kind = file_system_of(place)
    if is_network(kind) and name == "home":
        remedy = "Set EMCFSYS_HOME to a folder on a local disk: the queue is safer and faster there"
        return Diagnosis(what=f"{name} file system", state="warn", found=kind, remedy=remedy)
    if is_network(kind):
        remedy = "The hot folder polls here, as no events cross a network"
        return Diagnosis(what=f"{name} file system", state="warn", found=kind, remedy=remedy)
    if not os.access(nearest_existing(place), os.W_OK):
        remedy = "Ask its owner for write permission"
        return Diagnosis(
            what=f"{name} file system", state="fail", found="not writable", remedy=remedy
        )
    return Diagnosis(what=f"{name} file system", state="ok", found=kind)


def _shared_memory() -> Diagnosis:
    place = Path("/dev/shm")
    if not place.exists():
        return Diagnosis(what="shared memory", state="ok", found="none needed")
    free = shutil.disk_usage(place).free / 2**30
    return Diagnosis(what="shared memory", state="ok", found=f"{free:.1f} GiB free")


def _terminal() -> Diagnosis:
    term = os.environ.get("TERM", "")
    colours = {"truecolor": "16 million", "24bit": "16 million"}.get(
        os.environ.get("COLORTERM", ""), "256" if "256" in term else "16"
    )
    if not sys.stdout.isatty():
        return Diagnosis(what="terminal", state="ok", found="none: commands print plain text")
    if term in ("", "dumb"):
        remedy = "Set TERM=xterm-256color for the interface"
        return Diagnosis(
            what="terminal", state="warn", found=f"TERM={term or 'unset'}", remedy=remedy
        )
    size = shutil.get_terminal_size()
    text = f"{term}, {colours} colours, {size.columns}×{size.lines}"
    if size.columns < 60 or size.lines < 16:
        return Diagnosis(
            what="terminal", state="warn", found=text, remedy="Make it 80×24 or larger"
        )
    return Diagnosis(what="terminal", state="ok", found=text)


def _examine_torch() -> Sequence[Diagnosis]:
    """Ask torch; where it is missing or broken that is the finding."""
    try:
        from emcfsys_engine.learn.device import examine_torch

        return examine_torch()
    except (ImportError, OSError) as error:  # its libraries are there, and others than it wants
        found = " ".join(str(error).split())[:200]
        remedy = "pip install --force-reinstall torch torchvision timm"
        return [Diagnosis(what="torch", state="fail", found=found, remedy=remedy)]


@click.command()
@click.argument("project", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(project: str | None, as_json: bool) -> None:
    """Check this machine and say what to mend; PROJECT's disk too, if named.

    Example: emcfsys-engine doctor
    """
    lines = [*examine(project), *_examine_torch(), *examine_jobs()]
    if as_json:
        rows = [
            {"what": line.what, "state": line.state, "found": line.found, "remedy": line.remedy}
            for line in lines
        ]
        say_json({"lines": rows})
    else:
        width = max(len(line.what) for line in lines)
        for line in lines:
            remedy = f" → {line.remedy}" if line.remedy else ""
            say(f"{line.state:<4}  {line.what:<{width}}  {line.found}{remedy}")
    raise SystemExit(1 if any(line.state == "fail" for line in lines) else 0)
