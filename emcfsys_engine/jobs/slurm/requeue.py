"""The end of a batch script: a worker that was told to make room goes to the queue's end again.

`python -m emcfsys_engine.jobs.slurm.requeue RUN_FOLDER SLURM_BIN MOST`

The mark is the worker's last word, `run_interrupted`. A job that Slurm ends itself (cancelled,
preempted, out of time) is completing by now and left alone: it would come back from the dead.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import write_whole
from emcfsys_engine.run.events import CheckpointSaved, ImageDone, RegionDone, RunInterrupted
from emcfsys_engine.run.folder import Run

_PATIENCE_S = 60.0


class Requeues(msgspec.Struct, frozen=True, kw_only=True):
    """requeues.json: how far the run was at its last requeue, and how many gained nothing."""

    progress: int = 0  # steps, or images
    num_vain: int = 0


def main(arguments: Sequence[str]) -> int:
    """Requeue the job that we are the end of, if its worker left the mark."""
    run, bin_folder, most = Run(Path(arguments[0])), Path(arguments[1]), int(arguments[2])
    number = os.environ.get("SLURM_JOB_ID", "")
    if not isinstance(run.ending(), RunInterrupted) or run.asked() or not number:
        return 0
    if _ask(bin_folder / "squeue", "-h", "-j", number, "-o", "%T") != "RUNNING":
        return 0
    if not may_start_again(run, most):
        print(f"not requeued: {most} starts in a row brought it no further", flush=True)
        return 0
    print(f"requeued, to go on from step {progress_of(run)}", flush=True)
    _ask(bin_folder / "scontrol", "requeue", number)
    return 0


def may_start_again(run: Run, most: int) -> bool:
    """Count a start that was interrupted; False when too many in a row made no progress.

    Raises: OSError if the run's folder cannot be written.
    """
    before = read_requeues(run)
    progress = progress_of(run)
    vain = 0 if progress > before.progress else before.num_vain + 1
    now = Requeues(progress=max(progress, before.progress), num_vain=vain)
    write_whole(requeues_file(run), msgspec.json.encode(now))
    return vain <= most


def requeues_file(run: Run) -> Path:
    """Where the count is kept."""
    return run.folder / "requeues.json"


def read_requeues(run: Run) -> Requeues:
    """Return the count as it is; a new one where there is none."""
    try:
        found: Requeues | None = any_names.read(requeues_file(run), Requeues)
    except OSError:
        found = None
    return found or Requeues()


def progress_of(run: Run) -> int:
    """Return how far a run has come: the last step that it saved, or its number of images."""
    progress = 0
    for event in run.events():
        if isinstance(event, ImageDone | RegionDone):
            progress += 1
        elif isinstance(event, RunInterrupted | CheckpointSaved):
            progress = max(progress, event.step or 0)
    return progress


def _ask(program: Path, *words: str) -> str:
    done = subprocess.run(
        [str(program), *words], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    if done.returncode:
        print(f"{program.name}: {done.stderr.strip()}", file=sys.stderr, flush=True)
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
