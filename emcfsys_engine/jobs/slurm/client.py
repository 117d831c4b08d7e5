"""Slurm's own commands, called without a shell; what they print becomes typed values."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.errors import SlurmError
from emcfsys_engine.jobs.job import TASKS, Cluster

_PATIENCE_S = 90.0  # Slurm's commands try again by themselves for a while
_OURS = re.compile(r"(SLURM|SBATCH|SRUN|SALLOC|SQUEUE|SCANCEL|SACCT|SINFO)_")
# What a controller that is away or busy makes sbatch say; every other word is a refusal.
_MAY_PASS = re.compile(
    r"unable to contact slurm controller|socket timed out|timed out|zero bytes were transmitted"
    r"|temporarily unable|resource temporarily unavailable|connection refused|standby mode"
    r"|communication connection failure|unexpected message|transport endpoint|try again"
    r"|slurm_persist_conn|maxsubmitjob|job submit limit|unable to resolve|munge",
    re.IGNORECASE,
)

# The controller never heard of it: nothing was done.
_UNHEARD = re.compile(
    r"connect failure|connection refused|standby mode|job submit limit|maxsubmitjob|temporarily",
    re.IGNORECASE,
)

REST_S = 5  # of a requeued job, before it may start again


class SlurmJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job as Slurm tells it. Units: seconds since 1970."""

    id: str
    name: str
    state: str  # PENDING, RUNNING, TIMEOUT …
    reason: str = ""
    start: float | None = None  # of a waiting job: expected
    node: str = ""
    exit_code: str = ""


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of node in one partition."""

    name: str
    is_default: bool
    is_up: bool
    num_nodes: int
    cpus: int
    gres: str

    @property
    def gpus(self) -> int:
        """GPUs a node."""
        counts = re.findall(r"gpu(?::[^:,()]+)?:(\d+)", self.gres)
        return sum(int(count) for count in counts) or ("gpu" in self.gres)


def find_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Return the Slurm whose commands are here; None where there are none."""
    found = shutil.which("sbatch", path=environment.get("PATH"))
    if found is None:
        return None
    return Cluster(bin=str(Path(found).absolute().parent), conf=environment.get("SLURM_CONF", ""))


def submit(
    cluster: Cluster,
    options: Sequence[str],
    script: str,
    environment: Mapping[str, str],
    umask: int = -1,
) -> str:
    """Hand a batch script to sbatch and return the job's number.

    Raises: SlurmError; where it may pass, the job may have been taken all the same.
    """
    env = {name: text for name, text in environment.items() if not _OURS.match(name)}
    if cluster.conf:
        env["SLURM_CONF"] = cluster.conf
    told = _run(cluster, "sbatch", ["--parsable", *options], env=env, script=script, umask=umask)
    number = told.strip().partition(";")[0]
    if not number.isdecimal():
        raise SlurmError(f"sbatch answered {told.strip()!r} instead of a number", may_pass=True)
    return number


def list_jobs(cluster: Cluster) -> dict[str, SlurmJob]:
    """Return all of our user's jobs that Slurm remembers, by name: one question for all.

    Raises: SlurmError.
    """
    told = _run(cluster, "squeue", ["--me", "-h", "-t", "all", "-o", "%i|%T|%r|%S|%N|%j"])
    seen = [_seen(line.split("|", 5)) for line in told.splitlines() if line.count("|") >= 5]
    found = {one.name: one for one in seen}
    for name in [name for name in found if name.endswith(TASKS)]:
        found[name] = _all_tasks([one for one in seen if one.name == name])
    return found


def _all_tasks(tasks: Sequence[SlurmJob]) -> SlurmJob:
    """Return an array of tasks as one job: it lives while one of them does."""
    phases = [phase_of(task) for task in tasks]
    phase = "lives" if "lives" in phases else "waits" if "waits" in phases else "ended"
    first = tasks[phases.index(phase)]
    number = phases.count("lives")
    return msgspec.structs.replace(
        first,
        id=first.id.partition("_")[0],
        reason=first.reason if phase == "waits" else f"{number} task{'s'[: number != 1]} run",
    )


def remembered(cluster: Cluster, ids: Sequence[str]) -> dict[str, SlurmJob]:
    """Return what the accounting says of jobs that squeue has forgotten, by name.

    Raises: SlurmError; that accounting is switched off is normal.
    """
    words = ["-X", "-D", "-n", "-P", "-o", "JobID,State,Reason,Start,ExitCode,NodeList,JobName"]
    told = _run(cluster, "sacct", [*words, "-j", ",".join(ids)])
    found: dict[str, SlurmJob] = {}
    for line in told.splitlines():
        fields = line.split("|", 6)
        if len(fields) == 7:
            number, state, reason, start, code, node, name = fields
            # A requeued job has one line a start, the newest last; "CANCELLED by 1000" is a state.
            found[name] = SlurmJob(
                id=number,
                name=name,
                state=state.split()[0] if state else "",
                reason=reason,
                start=_epoch(start),
                node=node,
                exit_code=code,
            )
    return found


def kill(cluster: Cluster, slurm_id: str, *, number: str | None = None) -> None:
    """End a job, or send its steps a signal (TERM …); one that is gone is no error.

    Raises: SlurmError if Slurm cannot be reached.
    """
    words = [f"--signal={number}"] if number else []
    try:
        _run(cluster, "scancel", [*words, slurm_id])
    except SlurmError as error:
        if error.may_pass:
            raise


def kill_named(cluster: Cluster, name: str) -> None:
    """End what was submitted under a name, if Slurm has it.

    Raises: SlurmError if Slurm cannot be reached.
    """
    _run(cluster, "scancel", ["--me", f"--name={name}"])


def hasten(cluster: Cluster, slurm_id: str) -> None:
    """Let a requeued job start soon: Slurm holds it back for two minutes.

    Not at once: its nodes refuse a job that starts in the second in which they let it go
    ("job credential revoked"), and Slurm takes that for its failure.

    Raises: SlurmError.
    """
    _run(cluster, "scontrol", ["update", f"JobId={slurm_id}", f"StartTime=now+{REST_S}"])


def partitions(cluster: Cluster) -> list[Partition]:
    """Return every kind of node of every partition.

    Raises: SlurmError.
    """
    found: list[Partition] = []
    for line in _run(cluster, "sinfo", ["-h", "-o", "%P|%a|%D|%c|%G"]).splitlines():
        name, up, nodes, cpus, gres = line.split("|", 4)
        found.append(
            Partition(
                name=name.rstrip("*"),
                is_default=name.endswith("*"),
                is_up=up == "up",
                num_nodes=int(nodes),
                cpus=int(cpus.rstrip("+") or 1),
                gres=gres,
            )
        )
    return found


def has_accounting(cluster: Cluster) -> bool:
    """Tell whether Slurm keeps accounts of ended jobs.

    Raises: SlurmError.
    """
    told = _run(cluster, "scontrol", ["show", "config"])
    found = re.search(r"^AccountingStorageType\s*=\s*(\S+)", told, re.MULTILINE)
    return found is not None and not found[1].endswith("/none") and found[1] != "(null)"


def kill_wait_s(cluster: Cluster) -> int | None:
    """Return how long Slurm's own scancel waits between its TERM and its KILL; None if unsaid.

    Raises: SlurmError if Slurm cannot be reached.
    """
    told = re.search(
        r"^KillWait\s*=\s*(\d+)", _run(cluster, "scontrol", ["show", "config"]), re.MULTILINE
    )
    return int(told[1]) if told else None


def version(cluster: Cluster) -> str:
    """Return Slurm's version; it asks no controller.

    Raises: SlurmError.
    """
    return _run(cluster, "sbatch", ["--version"]).strip()


def plain_environment(environment: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return an environment without what a job or a shell of Slurm left in it."""
    return {name: text for name, text in environment if not _OURS.match(name)}


def _run(
    cluster: Cluster,
    program: str,
    words: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    script: str | None = None,
    umask: int = -1,
) -> str:
    if env is None:
        env = {**plain_environment(os.environ.items()), "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
        if cluster.conf:
            env["SLURM_CONF"] = cluster.conf
    try:
        done = subprocess.run(
            [str(Path(cluster.bin) / program), *words],
            input=script or "",
            env=env,
            umask=umask,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        message = f"{program} did not answer in {_PATIENCE_S:g} s"
        raise SlurmError(message, may_pass=True) from None
    except OSError as error:
        message = f"{program} could not be started: {error.strerror}"
        raise SlurmError(message, may_pass=True) from None
    if done.returncode:
        lines = [re.sub(rf"^{program}: (error: )?", "", line) for line in done.stderr.splitlines()]
        lines = [line.strip() for line in lines if line.strip()]
        told = "; ".join(lines[-2:]) or "no word"
        may_pass = bool(_MAY_PASS.search(done.stderr)) or not lines
        unheard = bool(_UNHEARD.search(done.stderr))
        raise SlurmError(f"{program}: {told}", may_pass=may_pass, unheard=unheard)
    return done.stdout


def _seen(fields: Sequence[str]) -> SlurmJob:
    number, state, reason, start, node, name = fields
    reason = "" if reason == "None" else reason
    return SlurmJob(
        id=number, name=name, state=state, reason=reason, start=_epoch(start), node=node
    )


def _epoch(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


Phase = Literal["waits", "lives", "ended"]

# Every state of Slurm 22.05 to 25.11; a word that is not here is taken to live, and told.
PHASES: dict[str, Phase] = {
    "PENDING": "waits",
    "REQUEUED": "waits",
    "REQUEUE_FED": "waits",
    "REQUEUE_HOLD": "waits",
    "SPECIAL_EXIT": "waits",
    "RESV_DEL_HOLD": "waits",
    "CONFIGURING": "lives",
    "RUNNING": "lives",
    "COMPLETING": "lives",  # its processes end, or it is about to wait again
    "STAGE_OUT": "lives",
    "SIGNALING": "lives",
    "RESIZING": "lives",
    "STOPPED": "lives",
    "SUSPENDED": "lives",
    "POWER_UP_NODE": "lives",
    "UPDATE_DB": "lives",
    "LAUNCH_FAILED": "ended",
    "RECONFIG_FAIL": "ended",
    "EXPEDITING": "waits",
    "COMPLETED": "ended",
    "FAILED": "ended",
    "CANCELLED": "ended",
    "TIMEOUT": "ended",
    "DEADLINE": "ended",
    "OUT_OF_MEMORY": "ended",
    "NODE_FAIL": "ended",
    "BOOT_FAIL": "ended",
    "PREEMPTED": "ended",
    "REVOKED": "ended",
}

# Ends after which Slurm may queue a job again by itself, a moment later.
MAY_COME_BACK = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED", "TIMEOUT"})

_WAITS_FOR = {
    "": "waits",
    "Resources": "waits for free nodes",
    "Priority": "waits for jobs of higher priority",
    "Dependency": "waits for the jobs it needs",
    "BeginTime": "waits for its begin time",
    "Licenses": "waits for licences",
    "Reservation": "waits for its reservation",
    "Cleaning": "is cleaned up after its last start",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs now",
    "PartitionNodeLimit": "asks for more nodes than its partition has",
    "PartitionTimeLimit": "asks for more time than its partition gives",
    "ReqNodeNotAvail": "the nodes it needs are away",
    "NodeDown": "the nodes it needs are down",
    "BadConstraints": "no node can ever be what it asks for",
    "InvalidAccount": "its account is unknown",
    "InvalidQOS": "its QOS is unknown",
    "AssociationTimeLimit": "its account's time is used up",
}
_HELD = {
    "JobHeldUser": "held",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "held after too many requeues",
    "launch_failed_requeued_held": "held: its start failed on a node",
}
_BLOCKED = "DependencyNeverSatisfied"
_LIVES = {
    "CONFIGURING": "its nodes are being prepared",
    "COMPLETING": "is ending",
    "SUSPENDED": "suspended",
    "STOPPED": "stopped with its memory kept",
    "STAGE_OUT": "copies its files back",
    "POWER_UP_NODE": "its nodes are powered up",
}


def phase_of(seen: SlurmJob) -> Phase:
    """Tell whether a job waits, lives or has ended."""
    return PHASES.get(seen.state, "lives")


def is_blocked(seen: SlurmJob) -> bool:
    """Tell whether a job waits for ones that can no longer end well."""
    return phase_of(seen) == "waits" and seen.reason == _BLOCKED


def is_held(seen: SlurmJob) -> bool:
    """Tell whether somebody must release a job before it starts."""
    return seen.state in ("REQUEUE_HOLD", "SPECIAL_EXIT") or _word(seen) in _HELD


def words_of(seen: SlurmJob) -> str:
    """Return what a person needs to know of a job that Slurm has."""
    phase = phase_of(seen)
    if seen.state not in PHASES:
        what = f"is {seen.state}, which this version does not know"
    elif phase == "waits":
        what = _waiting(seen)
    elif phase == "lives":
        what = _LIVES.get(seen.state, f"runs on {seen.node}" if seen.node else "runs")
    else:
        what = f"is {seen.state}"
    return f"Slurm {seen.id}: {what}"


def _waiting(seen: SlurmJob) -> str:
    word = _word(seen)
    if is_held(seen):
        why = _HELD.get(word, f"held: {word}")
        return f"{why}; release it with scontrol release {seen.id}"
    if is_blocked(seen):
        return "a job it needs did not end well"
    known = _WAITS_FOR.get(word)
    what = known or f"waits: {word}"  # limits of accounts and QOS name themselves
    if seen.start is None:
        return what
    then = time.localtime(seen.start)
    today = time.strftime("%F", then) == time.strftime("%F")
    return f"{what}; expected at {time.strftime('%H:%M' if today else '%F %H:%M', then)}"


def _word(seen: SlurmJob) -> str:
    """Return the reason as one word: some versions write theirs with spaces or a list after it."""
    return seen.reason.strip("()").partition(",")[0].replace(" ", "_")
