"""The engine as the interface sees it: the queue, what a job has made, GPUs, the daemon."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, InputError, printable
from emcfsys_engine.images.mosaic_view import ref_of
from emcfsys_engine.jobs import queue as engine_queue
from emcfsys_engine.jobs.control import daemon_status, ensure_daemon
from emcfsys_engine.jobs.job import Job, in_order, what_they_wait_for
from emcfsys_engine.jobs.machine import Gpu
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.lines import RunLines
from emcfsys_engine.run.progress import ProgressWords, progress_of
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import DoneSoFar
from emcfsys_engine.text import how_many
from emcfsys_tui.engine.data import PictureSpec
from emcfsys_tui.engine.runs import run_command
from emcfsys_tui.messages import LogRead, MaskRead, QueueRead
from emcfsys_tui.text import safe_lines
from emcfsys_tui.view_models import FindingRow, GpuRow, JobRow, QueueState

_NUM_ENDED = 200
_GPUS_EVERY_S = 5.0


class QueueReader:
    """Follows the queue; called from one thread."""

    def __init__(self) -> None:
        self._told: QueueState | None = None
        self._progress = ProgressWords()
        self._gpus: tuple[GpuRow, ...] = ()
        self._gpus_at = float("-inf")

    def read(self) -> QueueRead | None:
        """Return the queue, or None if nothing changed."""
        state = self._read()
        if state == self._told:
            return None
        self._told = state
        return QueueRead(state)

    def _read(self) -> QueueState:
        try:
            with Queue.open() as queue:
                jobs = queue.list()
                if time.monotonic() - self._gpus_at > _GPUS_EVERY_S:
                    self._gpus = _gpu_rows(queue.machine.gpus(), jobs)
                    self._gpus_at = time.monotonic()
                pid = daemon_status(queue.folder).pid
        except EmcfError as error:
            return QueueState(is_read=True, fault=safe_lines(str(error)))
        waits = what_they_wait_for(jobs)
        if pid is None:
            told = "no daemon runs: emcfsys-engine daemon start"
            waits = {job.id: told for job in jobs if job.state == "queued"}
        rows = tuple(
            _job_row(job, waits.get(job.id, ""), self._words_of(job)) for job in ordered(jobs)
        )
        return QueueState(is_read=True, jobs=rows, gpus=self._gpus, daemon_pid=pid)

    def _words_of(self, job: Job) -> str:
        if job.state != "running":
            return ""
        run = Run(Path(job.run))
        # What tasks on Slurm told stands in the reason.
        return progress_of(run).text if job.slurm else self._progress.of(run)


class JobLogReader:
    """Follows the lines of one job's run; called from one thread."""

    def __init__(self) -> None:
        self.wanted: tuple[int, Path] | None = None
        self._shown: tuple[int, Path] | None = None
        self._story: RunLines | None = None

    def read(self) -> LogRead | None:
        """Return the new lines of the job that is wanted."""
        wanted = self.wanted
        if wanted is None:
            return None
        fresh = wanted != self._shown or self._story is None
        if fresh:
            self._story = RunLines(Run(wanted[1]))
            self._shown = wanted
        assert self._story is not None
        lines = tuple(self._story.new_lines()[-2000:])
        return LogRead(wanted[0], lines, fresh) if lines or fresh else None


def ordered(jobs: list[Job]) -> list[Job]:
    """Return running jobs, then the queue in its order, then the newest ended ones."""
    ended = [job for job in reversed(jobs) if not job.is_open][:_NUM_ENDED]
    return [*in_order(jobs), *ended]


def submit_training(
    folder: Path, overrides: tuple[str, ...] = (), *, is_checked: bool = False
) -> tuple[int, str]:
    """Queue a training of the project and see that a daemon runs; return job and run.

    Of several folds each is a job; the first is returned.
    `is_checked`: the person knows what the check says, and starts it all the same.

    Raises: InputError for the first thing that `check` refuses; ProjectFaults, QueueError,
    SlurmError, DaemonError, RunFolderError.
    """
    project = load_project(folder, overrides)
    if not is_checked:
        _refuse(refusals_of(folder, overrides))
    with Queue.open() as queue:
        numbers, runs = engine_queue.submit_training(queue, project)
    ensure_daemon()
    return numbers[0], runs[0].id


def _refuse(errors: Sequence[FindingRow]) -> None:
    for first in errors[:1]:
        more = f" (and {len(errors) - 1} more: c checks)" if len(errors) > 1 else ""
        raise InputError(first.file, f"{first.what}{more}", first.remedy)


def refusals_of(folder: Path, overrides: tuple[str, ...]) -> tuple[FindingRow, ...]:
    """Return what the training would refuse: found in a child, which may import torch.

    Raises: InputError where it cannot be told.
    """
    settings = [word for one in overrides for word in ("--set", one)]
    done = run_command(["check", str(folder), "--quick", "--json", *settings], is_look=True)
    try:
        report: dict[str, Any] = any_names.decode(done.out, Any)
    except msgspec.DecodeError:
        remedy = "Try: emcfsys-engine check"
        raise InputError(folder, f"cannot be checked: {done.words}", remedy) from None
    found = msgspec.convert(report["findings"], list[FindingRow])
    return tuple(one for one in found if one.level == "error")


def ask_job(job_id: int, ask: str) -> str:
    """Do something to a job and return what it is now.

    Raises: QueueError when its state does not allow it; DaemonError.
    """
    with Queue.open() as queue:
        acts = {
            "cancel": queue.cancel,
            "stop": queue.stop,
            "pause": queue.pause,
            "resume": queue.resume,
            "retry": queue.retry,
        }
        job = acts[ask](job_id)
        if job.is_open and job.state != "paused":
            ensure_daemon(queue.folder)
    return f"job {job.id} is {job.state}" + (f" ({job.ask} asked)" if job.ask else "")


def move_job(job_id: int, by: int) -> str:
    """Move a waiting job one place up or down in the queue.

    Raises: QueueError when it does not wait.
    """
    with Queue.open() as queue:
        waiting = [job.id for job in ordered(queue.list()) if job.state in ("queued", "paused")]
        if job_id not in waiting:
            queue.move(job_id)  # refuses, with the reason
        place = waiting.index(job_id)
        target = max(0, min(len(waiting) - 1, place + by))
        if target == place:
            return f"job {job_id} keeps its place"
        if by < 0:
            queue.move(job_id, before=waiting[target])
        elif target == len(waiting) - 1:
            queue.move(job_id, last=True)
        else:
            queue.move(job_id, before=waiting[target + 1])
    return f"job {job_id} is number {target + 1} of those that wait"


def _job_row(job: Job, waits: str, progress: str) -> JobRow:
    nodes = job.slurm.nodes if job.slurm else 1
    asks = [f"{nodes} ×"] if nodes > 1 else []
    asks += [f"{job.gpus:g} GPU"] if job.gpus else [f"{job.cpus} CPU"] if job.cpus else []
    asks += [f"{job.memory_gb:g} GB"] if job.memory_gb else []
    ended = job.ended or (None if not job.is_open else time.time() // 1)
    took = max(0.0, ended - job.started) if job.started and ended else None
    return JobRow(
        id=job.id,
        state=job.state,
        project=job.project,
        kind=job.kind,
        run=Path(job.run),
        asks=" ".join(asks) or "–",
        since=job.started or job.created,
        took_s=took,
        reason=f"{job.ask} asked" if job.ask else waits or job.reason,
        progress=progress,
        is_open=job.is_open,
        where=f"slurm {job.slurm_id}".rstrip(" ?") if job.slurm else "here",
        gpu_ids=job.gpu_ids,
    )


def _gpu_rows(gpus: list[Gpu], jobs: list[Job]) -> tuple[GpuRow, ...]:
    ours = {
        uuid: job for job in jobs if job.state in ("running", "stopping") for uuid in job.gpu_ids
    }
    rows: list[GpuRow] = []
    for gpu in gpus:
        if gpu.uuid in ours:
            owner = f"job {ours[gpu.uuid].id} · {ours[gpu.uuid].project}"
        elif gpu.num_taken:
            owner = "a colleague's job"
        else:
            owner = "somebody else's process" if gpu.is_used_by_others else "free"
        used = gpu.total_gb - gpu.free_gb
        rows.append(
            GpuRow(name=gpu.name, index=gpu.index, used_gb=used, total_gb=gpu.total_gb, owner=owner)
        )
    return tuple(rows)


class MaskReader:
    """Follows what one job has done; called from one thread."""

    def __init__(self) -> None:
        self.wanted: tuple[int, Path] | None = None
        self._shown: tuple[int, Path] | None = None
        self._done: DoneSoFar | None = None
        self._model = ""

    def read(self) -> MaskRead | None:
        """Return what is new of the job that is wanted."""
        wanted = self.wanted
        if wanted is None:
            self._shown = None
            return None
        is_fresh, self._shown = wanted != self._shown, wanted
        try:
            if is_fresh:
                self._done = None
                request = Run(wanted[1]).record().request
                if not isinstance(request, PredictRequest):
                    return MaskRead(wanted[0], None, "no prediction")
                self._model, self._done = request.model, DoneSoFar(Run(wanted[1]))
            if self._done is None or not (self._done.look() or is_fresh):
                return None
            return self._told(wanted, self._done)
        except (EmcfError, OSError) as error:
            return MaskRead(wanted[0], None, printable(str(error)))

    def _told(self, wanted: tuple[int, Path], done: DoneSoFar) -> MaskRead:
        """Tell of the large image that is being done, or of the image that was done last."""
        job, run = wanted
        counts = [len(done.regions(str(ref_of(one)))) for one in done.mosaics]
        begun = [n for n, count in enumerate(counts) if count]
        grows = [n for n in begun if counts[n] < len(done.mosaics[n].regions)]
        if grows or (begun and done.newest is None):
            place = (grows or begun)[-1]
            mosaic = done.mosaics[place]
            words = f"{counts[place]:,} of {len(mosaic.regions):,} regions"
            spec = PictureSpec(
                key=f"{run}:{place}",
                path=mosaic.image,
                run=str(run),
                mosaic=place,
                model=self._model,
            )
            return MaskRead(job, spec, printable(f"{ref_of(mosaic).name}: {words}"))
        if done.newest is None:
            return MaskRead(job, None, "nothing is done yet")
        name = Path(done.newest.image).name
        title = f"{name}: the newest of {how_many(done.num_images, 'image')}"
        return MaskRead(job, self._of_image(done.newest.image, done.newest.mask), printable(title))

    def _of_image(self, image: str, mask: str) -> PictureSpec:
        path, plane = image, None
        if not Path(image).exists():
            file, _, number = image.rpartition("#")
            with suppress(ValueError):
                path, plane = file, int(number)
        return PictureSpec(
            key=f"{image}:{mask}", path=path, plane=plane, mask=mask, model=self._model
        )
