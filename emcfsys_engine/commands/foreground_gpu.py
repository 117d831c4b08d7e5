"""A run in the foreground takes a free GPU and holds its lease, as one of the queue does."""

import os
from collections.abc import Mapping

from emcfsys_engine.errors import InputError
from emcfsys_engine.jobs.machine import Machine, choose, usual_gpus, who_uses
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import Lease
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import PredictRequest, TrainRequest


def gpus_for(
    run: Run, machine: Machine | None = None, environment: Mapping[str, str] = os.environ
) -> tuple[dict[str, str], Lease | None]:
    """Return what a run's worker gets laid over its environment, and the GPU slots it must lock.

    Who names GPUs in CUDA_VISIBLE_DEVICES gets those, in use or not.
    Raises: InputError if all GPUs are in use.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        return {}, None
    machine = machine or Machine()
    gpus = machine.gpus()
    wanted = _wanted(run, machine) if gpus else 0.0
    if not wanted or wanted > len(gpus):  # too many: the worker says so with its remedy
        return {}, None
    chosen = choose(gpus, wanted, {})
    if chosen is None:
        users = who_uses(machine.lock_folder, gpus)
        remedy = "Submit the run, or name the GPU to share: CUDA_VISIBLE_DEVICES=0"
        raise InputError("GPU", f"{wanted:g} wanted, in use: {users}", remedy)
    laid_over = {
        "CUDA_VISIBLE_DEVICES": ",".join(chosen),
        processes.SHARE_VARIABLE: f"{min(1.0, wanted):g}",
    }
    slots = dict.fromkeys(chosen, processes.slots_for(wanted))
    return laid_over, Lease(lock_folder=str(machine.lock_folder), num_slots=slots)


def _wanted(run: Run, machine: Machine) -> float:
    record = run.record()
    gpus = None if record.project is None else record.project.compute.gpus
    if isinstance(record.request, TrainRequest):
        return usual_gpus(machine, "train") if gpus is None else float(gpus)
    if isinstance(record.request, PredictRequest):
        gpus = record.request.gpus
        return usual_gpus(machine, "predict") if gpus is None else float(gpus)
    if gpus == 0:
        return 0.0
    # One process beside others takes a share; several take each a GPU of their own.
    return usual_gpus(machine, "watch") if (gpus or 1) == 1 else float(gpus or 1)
