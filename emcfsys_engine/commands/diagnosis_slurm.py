"""What `doctor` says of Slurm: its commands, its controller, partitions, GPUs, accounting."""

import os
from collections.abc import Mapping, Sequence

from emcfsys_engine.errors import Diagnosis, EmcfError, SlurmError
from emcfsys_engine.jobs.slurm import client as commands
from emcfsys_engine.jobs.slurm.client import Partition
from emcfsys_engine.settings import load_config


def examine_slurm(environment: Mapping[str, str] = os.environ) -> list[Diagnosis]:
    """Look at the cluster from here; a machine without Slurm is no fault."""
    cluster = commands.find_cluster(environment)
    if cluster is None:
        return [Diagnosis(what="Slurm", state="ok", found="none here; jobs run on this machine")]
    try:
        version = commands.version(cluster)
        found = commands.partitions(cluster)
        accounts = commands.has_accounting(cluster)
    except SlurmError as error:
        remedy = "Check SLURM_CONF and munge, or ask the cluster's administrators"
        return [Diagnosis(what="Slurm", state="fail", found=str(error), remedy=remedy)]
    lines = [Diagnosis(what="Slurm", state="ok", found=f"{version}, its controller answers")]
    lines.append(_partitions(found))
    lines.append(_gpus(found))
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
