"""What a job asks of Slurm: project, command line and user's defaults, settled at submission."""

import os
from collections.abc import Mapping

from emcfsys_engine.errors import QueueError, SlurmError
from emcfsys_engine.jobs.job import Cluster, SlurmOrder
from emcfsys_engine.jobs.requests import Request, Wanted
from emcfsys_engine.jobs.slurm import client
from emcfsys_engine.project import Compute
from emcfsys_engine.settings import Config
from emcfsys_engine.slurm_settings import merged

_MOST_CPUS = 8  # asked for when nobody says: loading and augmenting gain little from more


def settle_order(
    wanted: Wanted,
    compute: Compute,
    config: Config,
    environment: Mapping[str, str] = os.environ,
) -> tuple[Request, SlurmOrder]:
    """Fill in what is left open: from the user's defaults, then from what the nodes have.

    It asks nothing of this machine: a login node has no GPU, no CUDA and few processors. While
    the controller is away one GPU is assumed; sbatch's own word comes later then.
    Raises: QueueError if there is no Slurm here, or the request makes no sense.
    """
    cluster = client.find_cluster(environment)
    if cluster is None:
        remedy = 'Submit on a login node of the cluster, or set compute.executor = "local"'
        raise QueueError("Slurm", "there is no sbatch here", remedy)
    settings = merged(compute.slurm, config.slurm)
    node_cpus, node_gpus = _smallest_node(cluster, settings.partition)
    gpus = wanted.gpus if wanted.gpus is not None else float(min(1, node_gpus))
    if gpus != int(gpus) or not 0 <= gpus <= 64:
        what = f"{gpus:g} is no number of GPUs of a node"
        raise QueueError("--gpus", what, "Ask Slurm for whole ones")
    share = max(1, node_cpus * max(1, int(gpus)) // max(1, node_gpus))
    cpus = wanted.cpus or settings.cpus or min(_MOST_CPUS * max(1, int(gpus)), share)
    memory_gb = wanted.memory_gb or 0.0
    if memory_gb < 0:
        raise QueueError("--memory-gb", f"{memory_gb:g} is no amount", "Ask for more than 0")
    order = SlurmOrder(
        cluster=cluster,
        settings=settings,
        prolog=config.slurm.prolog,
        nodes=compute.nodes,
        requeues=config.slurm.requeues,
    )
    return Request(gpus=gpus, cpus=cpus, memory_gb=memory_gb), order


def _smallest_node(cluster: Cluster, partition: str | None) -> tuple[int, int]:
    """Return processors and GPUs of the smallest node that a job may come to."""
    try:
        found = client.partitions(cluster)
    except SlurmError:
        return 1, 1
    named = (partition or "").split(",")
    kinds = [one for one in found if one.name in named or (not partition and one.is_default)]
    with_gpus = [kind for kind in kinds if kind.gpus] or kinds
    if not with_gpus:
        return 1, 1  # sbatch will say that there is no such partition
    return min(kind.cpus for kind in with_gpus), min(kind.gpus for kind in with_gpus)
