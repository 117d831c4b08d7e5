"""The engine as the interface sees it: what there is to read about a fault, a run, a job, an image.

Called from threads; nothing of it is made safe for a terminal here: the window that shows it does.
"""

import re
from pathlib import Path

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.lines import log_tail
from emcfsys_engine.text import day_clock, moment
from emcfsys_tui.messages import NoticeFound
from emcfsys_tui.text import reason_words
from emcfsys_tui.view_models import Deed, FindingRow, HotLine, Notice, PlanRow, RunRow, SaidLine

_LOOKED_AT_BYTES = 4096
_LARGEST_TEXT_BYTES = 64 << 20  # editors on a server become slow beyond
_NUM_LAST = 8  # lines of a log beside a reason
_MENDED = "Mend what it names, then r tries it again"
_REMEDIES = {
    "failed": _MENDED,
    "lost": "Nobody can tell why: r tries it again, from its checkpoint where there is one",
    "interrupted": "What was reached is saved: r goes on from there",
    "cancelled": "r starts it again",
    "paused": "It keeps its place: r lets it go on",
}


def of_finding(one: FindingRow, folder: Path, image: str) -> NoticeFound:
    """Return all that the check says of one fault; `image`: the key of its image in the list."""
    file = file_in(one.file, folder)
    deeds: tuple[Deed, ...] = ("image", "check") if image else ("check",)
    return NoticeFound(
        Notice(
            title=f"{one.level} of the check",
            what=one.what,
            where=one.file if file is None or str(file) != one.file else "",
            remedy=one.remedy,
            file=file,
            can_edit=is_text(file),
            deeds=deeds,
            about=image,
        )
    )


def of_run(row: RunRow) -> NoticeFound:
    """Return why a run ended as it did, with the last lines of its log."""
    run = Run(row.folder)
    total = f" of {row.total_steps:,}" if row.total_steps else ""
    return NoticeFound(
        Notice(
            title=f"{row.id} {row.state}",
            what=reason_words(row.reason) or "It left no reason",
            where=f"{row.does or 'a run'} at step {row.step:,}{total}" if row.step else "",
            remedy=remedy_for(row.state, row.reason),
            lines=log_tail(run),
            file=run.log_file if run.log_file.exists() else run.folder,
            can_edit=is_text(run.log_file),
            deeds=("retry",) if row.state in _REMEDIES else (),
            about=row.id,
        )
    )


def of_job(job_id: int) -> NoticeFound:
    """Return what became of a job: its state, every move of it, and its worker's last words.

    Raises: QueueError if there is none any more.
    """
    with Queue.open() as queue:
        job = queue.get(job_id)
        history = queue.history(job_id)
    run = Run(Path(job.run))
    moves = [f"{day_clock(line.time)}  {line.state:<12} {line.reason}" for line in history]
    waits = f"waits since {day_clock(job.created)}" if job.state == "queued" else ""
    ended = job.state in ("failed", "cancelled", "interrupted", "lost", "paused")
    evidence = job.evidence or (log_tail(run) if job.state in ("failed", "lost") else ())
    deeds: tuple[Deed, ...] = ("retry", "run") if ended else ("run",)
    return NoticeFound(
        Notice(
            title=f"job {job.id} {job.state}: {job.project}, {run.id}",
            what=reason_words(job.reason) or waits or f"It is {job.state}",
            remedy=remedy_for(job.state, job.reason),
            lines=(*moves, *(("", "the last lines of its log:") if evidence else ()), *evidence),
            lines_are="what became of it",
            file=run.log_file if run.log_file.exists() else run.folder,
            can_edit=is_text(run.log_file),
            deeds=deeds,
            about=str(job.id),
        )
    )


def of_image(line: HotLine) -> NoticeFound:
    """Return why an image failed in the hot folder, what its verdict says, or what is unlike."""
    is_there = line.path is not None and line.path.exists()
    unlike = f"unlike the training data: {line.unlike}" if line.unlike else ""
    judged = f"{line.verdict.upper()}  {line.why}".strip()
    offered: dict[Deed, bool] = {"retry": line.failed, "image": is_there}
    return NoticeFound(
        Notice(
            title=f"{'failed' if line.failed else 'masked'}: {line.image}",
            what="\n".join(word for word in (judged, unlike, line.text) if word),
            where=f"{line.image}, {_tries(line)}{moment(line.time, '%F %H:%M:%S')}",
            remedy=_for_image(line, is_there),
            file=line.path,
            can_edit=is_text(line.path),
            deeds=tuple(deed for deed, can_be_done in offered.items() if can_be_done),
            about=line.image,
        )
    )


def of_line(time: str, text: str, source: str, log: Path) -> NoticeFound:
    """Return one line of a log, whole."""
    return NoticeFound(
        Notice(
            title=f"{source} {time}".strip(),
            what=text,
            file=log if log.exists() else None,
            can_edit=is_text(log),
        )
    )


def of_said(line: SaidLine) -> NoticeFound:
    """Return what a job or a hot folder of some project said; "its run" opens that project."""
    there = line.log if line.log is not None and line.log.exists() else None
    return NoticeFound(
        Notice(
            title=f"{line.project}, {day_clock(line.time)}",
            what=line.text,
            file=there or line.folder,
            can_edit=is_text(there),
            deeds=("run",),
        )
    )


def of_choice(row: PlanRow) -> NoticeFound:
    """Return one choice of a training's plan, with its reason."""
    what = f"{row.name}: {row.value}"
    return NoticeFound(Notice(title="what will happen", what=what, remedy=row.why))


def remedy_for(state: str, reason: str) -> str:
    """Return what can be done about a run that ended like this; its own reason may say more."""
    if state == "failed" and "out of memory" in reason.lower() and "Lower" not in reason:
        return "Lower training.batch or training.patch_px in Train, or wait until others are done"
    return _REMEDIES.get(state, "")


def why_of(row: RunRow, log: tuple[str, ...]) -> str:
    """Return why a run has no curves to come, for the place where they would be."""
    remedy = remedy_for(row.state, row.reason)
    tail = [line for line in log[-_NUM_LAST:] if line.strip() not in row.reason]
    place = ["A watch: 4 shows what came"] if row.does == "watch" else []
    return "\n".join([reason_words(row.reason), f"→ {remedy}", *place, "", *tail])


def file_in(where: str, folder: Path) -> Path | None:
    """Return the file that a fault names: "a.tif#3", "project.toml: key", or a plain path."""
    for text in (where, where.partition("#")[0], where.partition(": ")[0]):
        path = folder / text
        if text and path.is_file():
            return path
    return folder / "project.toml" if re.match(r"data\.\d+", where) else None


def is_text(file: Path | None) -> bool:
    """Tell whether an editor can show a file: a text, not too long."""
    try:
        if file is None or not file.is_file() or file.stat().st_size > _LARGEST_TEXT_BYTES:
            return False
        with file.open("rb") as stream:
            return b"\0" not in stream.read(_LOOKED_AT_BYTES) and not _is_picture(file)
    except OSError:
        return False


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def _for_image(line: HotLine, is_there: bool) -> str:
    if not line.failed:
        return ""
    if not is_there:
        return "The file is gone: copy it again"
    if not line.is_final:
        return "It is tried again by itself; r tries all that failed now"
    return "Copy it again; or r tries all that failed"


def _tries(line: HotLine) -> str:
    return f"try {line.attempts} at " if line.failed else ""
