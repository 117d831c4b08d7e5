"""Slurm's words for a job's state and for why it waits, each with what it means for ours."""

import time
from typing import Literal

from emcfsys_engine.jobs.slurm.client import Seen

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


def phase_of(seen: Seen) -> Phase:
    """Tell whether a job waits, lives or has ended."""
    return PHASES.get(seen.state, "lives")


def is_blocked(seen: Seen) -> bool:
    """Tell whether a job waits for ones that can no longer end well."""
    return phase_of(seen) == "waits" and seen.reason == _BLOCKED


def is_held(seen: Seen) -> bool:
    """Tell whether somebody must release a job before it starts."""
    return seen.state in ("REQUEUE_HOLD", "SPECIAL_EXIT") or _word(seen) in _HELD


def words_of(seen: Seen) -> str:
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


def _waiting(seen: Seen) -> str:
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


def _word(seen: Seen) -> str:
    """Return the reason as one word: some versions write theirs with spaces or a list after it."""
    return seen.reason.strip("()").partition(",")[0].replace(" ", "_")
