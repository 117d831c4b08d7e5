"""The engine as the interface sees it: the hot folder, told from its ledger and its run."""

import time
from collections import Counter, deque
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import structs

from emcfsys_engine.errors import EmcfError, InputError, printable
from emcfsys_engine.files import changed_ns
from emcfsys_engine.hotfolder.judged import Judged, Word
from emcfsys_engine.hotfolder.places import name_below, watched_places, watcher_of, watching_run
from emcfsys_engine.hotfolder.review import Overview, ask_retry, overview, say_word
from emcfsys_engine.hotfolder.series import names_in, parts_of, read_series, trend_of
from emcfsys_engine.hotfolder.status import choose_best, is_watch_of, resolve_model
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import (
    AnyEvent,
    EventReader,
    ImageDone,
    ImageFailed,
    RunFailed,
    RunStarted,
    WatchState,
)
from emcfsys_engine.run.folder import Run, list_runs
from emcfsys_engine.run.lines import images_per_min
from emcfsys_engine.run.records import TrainRequest, WatchRequest
from emcfsys_engine.text import how_many
from emcfsys_tui.engine.edit_project import edit_project
from emcfsys_tui.engine.runs import run_command
from emcfsys_tui.messages import HotRead, ModelsRead, TextFound, TrendRead
from emcfsys_tui.text import reason_words, safe_lines
from emcfsys_tui.view_models import HotLine, HotState, HotTrend, ModelRow

_NEWEST = 200
_MINUTES = 30
_DONE_AT = 10_000  # more than any machine does in a minute
_LEDGER_EVERY_S = 2.0


@dataclass
class _Watch:
    """One run that watches or watched, as far as it was read."""

    run: Run
    reader: EventReader
    state: WatchState | None = None
    started: float | None = None
    fault: str = ""


class HotFolderReader:
    """Follows the watch of a project, or else its newest; called from one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known_runs: dict[str, bool] = {}
        self._watches: dict[str, _Watch] = {}  # by run: one that comes back is read on
        self._watch: _Watch | None = None
        self._newest: deque[HotLine] = deque(maxlen=_NEWEST)
        self._failures: dict[str, HotLine] = {}  # by image, oldest first
        self._lags: deque[float] = deque(maxlen=500)
        self._per_minute: dict[int, int] = {}
        self._done_at: deque[float] = deque(maxlen=_DONE_AT)
        self._unlike: set[str] = set()  # images, as they were predicted last
        self._known = Overview()  # the newest are judged in it
        self._counted_at = float("-inf")
        self._told: HotState | None = None

    def read(self) -> HotRead | None:
        """Return how the hot folder is doing, or None if nothing changed."""
        try:
            state = self._read()
        except (EmcfError, OSError) as error:
            state = HotState(fault=safe_lines(str(error)))
        if state == self._told:
            return None
        self._told = state
        return HotRead(state)

    def _read(self) -> HotState:
        project = load_project(self.folder)
        settings = project.hotfolder
        if settings.watch is None:
            return HotState()
        output = self.folder / settings.output
        self._follow(project, output)
        owner = watcher_of(output)
        known = self._look(output)
        judged = {one.path: one for one in known.judged}
        word, detail = self._word(owner)
        minute = int(time.time() // 60)
        rates = [float(self._per_minute.get(minute - n, 0)) for n in range(_MINUTES, -1, -1)]
        watch = self._watch
        record = watch.run.record_if_open() if watch else None
        request = record.request if record else None
        return HotState(
            configured=True,
            state=word,
            detail=detail,
            watch=settings.watch,
            output=settings.output,
            model=request.model if isinstance(request, WatchRequest) else settings.model,
            run=watch.run.id if watch else "",
            since=watch.started if watch and owner else None,
            done=known.states.get("done", 0),
            failed=known.states.get("failed", 0),
            trying=known.states.get("trying", 0),
            skipped=known.states.get("skipped", 0),
            unlike=len(self._unlike),
            verdicts=known.verdicts if any(known.verdicts.values()) else {},
            groups=dict(Counter(group.state for group in known.groups if group.state)),
            recipe=known.recipe,
            recipe_file=request.recipe if isinstance(request, WatchRequest) else "",
            median_lag_s=median(self._lags) if self._lags else None,
            worst_lag_s=max(self._lags, default=None),
            images_per_min=images_per_min(self._done_at, time.time()),
            rates=tuple(rates),
            lags=tuple(self._lags)[-40:],
            newest=tuple(_with_verdict(one, judged.get(one.image)) for one in self._newest),
            failures=tuple(reversed(self._failures.values())),
            fault=watch.fault if watch and not owner else "",
        )

    def _follow(self, project: Project, output: Path) -> None:
        """Read what is new of the run that watches; a newer one may have been refused."""
        now = watching_run(output)
        newest: Run | None = None
        for run in list_runs(project.folder):
            if run.id not in self._known_runs:
                self._known_runs[run.id] = is_watch_of(run, project.folder)
            if self._known_runs[run.id]:
                newest = run
                if run.folder == now:
                    break
        if newest is None:
            return
        if newest.id not in self._watches:
            self._watches[newest.id] = _Watch(newest, EventReader(newest.events_file))
        self._watch = self._watches[newest.id]
        for event in self._watch.reader.read_new():
            self._take(event, project, self._watch)

    def _take(self, event: AnyEvent, project: Project, watch: "_Watch") -> None:
        if isinstance(event, RunStarted):
            watch.started, watch.fault = event.time, ""
        elif isinstance(event, WatchState):
            watch.state = event
        elif isinstance(event, RunFailed):
            watch.fault = safe_lines(event.reason)
        elif isinstance(event, ImageDone):
            minute = int(event.time // 60)
            self._per_minute[minute] = self._per_minute.get(minute, 0) + 1
            self._done_at.append(event.time)
            if event.lag_s is not None:
                self._lags.append(event.lag_s)
            (self._unlike.add if event.unlike else self._unlike.discard)(event.image)
            line = _line_of(event, project)
            self._newest = deque((one for one in self._newest if one.image != line.image), _NEWEST)
            self._newest.appendleft(line)
            self._failures.pop(line.image, None)  # it has its mask now
        elif isinstance(event, ImageFailed):
            image = _short(project, event.image)
            self._failures.pop(image, None)  # one row an image: the newest of its attempts
            self._failures[image] = HotLine(
                time=event.time,
                image=image,
                path=_below(project, project.hotfolder.watch or "", event.image),
                mask=None,
                text=_reason(event),
                failed=True,
                attempts=event.attempt,
                is_final=event.final,
            )
            if len(self._failures) > _NEWEST:
                del self._failures[next(iter(self._failures))]

    def _look(self, output: Path) -> Overview:
        if time.monotonic() - self._counted_at >= _LEDGER_EVERY_S:
            self._counted_at = time.monotonic()
            self._known = overview(output, [one.image for one in self._newest])
        return self._known

    def _word(self, owner: str | None) -> tuple[str, str]:
        if owner is None:
            return "stopped", ""
        if self._watch is None or self._watch.state is None:
            return "starting", ""
        return self._watch.state.state, self._watch.state.detail


def start_watch(folder: Path, recipe_file: str = "") -> str:
    """Queue a watch of the project's hot folder, in a child: it settles the model first.

    `recipe_file`: that is followed; empty: none.
    Raises: InputError with the engine's own word.
    """
    project = load_project(folder)
    if project.hotfolder.watch is not None:
        (folder / project.hotfolder.watch).mkdir(parents=True, exist_ok=True)
    recipe = ["--recipe", recipe_file] if recipe_file else []
    done = run_command(["submit", "watch", str(folder), *recipe])
    if done.code != 0:
        raise InputError("watch", done.words.removeprefix("emcfsys-engine: ") or "failed")
    return f"job {done.out.strip()} watches {project.hotfolder.watch}/"


def stop_watch(folder: Path) -> str:
    """Let the watch end: the images at hand are finished.

    Raises: InputError when it is not one of our jobs.
    """
    with Queue.open() as queue:
        for job in queue.list():
            if job.kind == "watch" and job.is_open and Path(job.run).parent.parent == folder:
                queue.cancel(job.id)
                return f"job {job.id} is asked to end"
    raise InputError(
        folder, "no watch of this queue", "It may run in another terminal: end it there"
    )


def retry_failed(folder: Path) -> str:
    """Ask the watch to try failed images again; the images are not touched.

    Raises: InputError when there is none.
    """
    project = load_project(folder)
    number = ask_retry(folder / project.hotfolder.output)
    return f"{how_many(number, 'image')} will be tried again"


def say_of(folder: Path, image: str, word: Word, reason: str = "") -> str:
    """Note a person's word on an image's mask.

    Raises: InputError, OutputError.
    """
    project = load_project(folder)
    root, output = watched_places(project)
    if word == "corrected":  # what reads masks is not needed before
        check = import_module("emcfsys_engine.tools.corrections").refuse_what_is_no_mask
        check(project, root, output, [image])
    say_word(output, [image], word, reason)
    return f"{image} is {word}"


def read_trend(folder: Path, name: str, part: str) -> TrendRead:
    """Return the control chart of a number, or of the next best one, of a part or all images.

    `part`: a group or a recipe, in the words of `parts_of`; another one means all.

    Raises: InputError for a ledger that cannot be read.
    """
    images = read_series(folder / load_project(folder).hotfolder.output)
    parts = parts_of(images)
    part = part if part in parts else ""
    images = parts.get(part, images)
    names = tuple(names_in(images))
    name = name if name in names else next(iter(names), "")
    found = trend_of(images, name)
    common: dict[str, Any] = {"name": name, "names": names, "part": part, "parts": tuple(parts)}
    if found is None:
        return TrendRead(HotTrend(**common, note="fewer than two images have numbers"))
    return TrendRead(
        HotTrend(
            **common,
            note=f"{how_many(len(found.values), 'image')}, {len(found.signals):,} against a rule",
            times=tuple(one.time for one in found.images),
            values=found.values,
            ewma=found.ewma,
            levels=tuple(tuple(line) for _, line in found.levels()),
            changes=tuple(found.images[one.place].time for one in found.changes),
            told=tuple(words for _, words in found.told()),
        )
    )


def _with_verdict(line: HotLine, judged: Judged | None) -> HotLine:
    if judged is None or not judged.verdict:
        return line
    why = f"{judged.word} {judged.word_reason}" if judged.word else "; ".join(judged.reasons)
    return structs.replace(
        line, verdict=judged.verdict, why=printable(why.strip()), word=judged.word
    )


def _line_of(event: ImageDone, project: Project) -> HotLine:
    shares = sorted(event.shares.items(), key=lambda item: -item[1])
    words = [f"{name} {share:.1%}" for name, share in shares if name != project.class_names[0]]
    if event.confidence is not None:
        words.append(f"conf {event.confidence:.2f}")
    return HotLine(
        time=event.time,
        image=_short(project, event.image),
        path=_below(project, project.hotfolder.watch or "", event.image),
        mask=_below(project, project.hotfolder.output, event.mask),
        text=printable("  ".join(words)),  # classes are called as somebody wrote them
        unlike=event.unlike,
    )


def _reason(event: ImageFailed) -> str:
    """Return why an image failed, without the path that its row has anyway."""
    path, _, rest = event.reason.partition(": ")
    is_own = rest and Path(path).name == Path(event.image).name
    return rest if is_own else reason_words(event.reason)


def _short(project: Project, name: str) -> str:
    """Return an image's name below the watched folder."""
    root = project.folder / (project.hotfolder.watch or "")
    below = name.removeprefix(f"{root}/")
    return below if below != name else name_below(root, name)  # watched by another path to it


def _below(project: Project, folder: str, name: str) -> Path:
    return project.folder / folder / name


class ModelsReader:
    """Follows the model files of a project; called from one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[str, int, int], ModelRow] = {}
        self._told: tuple[tuple[ModelRow, ...], int] | None = None

    def read(self) -> ModelsRead | None:
        """Return the model files, the best IoU first; None if unchanged."""
        rows: list[ModelRow] = []
        for run in reversed(list_runs(self.folder)):
            for role, file in (("best", run.best_model), ("final", run.final_model)):
                row = self._row(run, role, file)
                if row is not None:
                    rows.append(row)
        rows.sort(key=lambda row: -1.0 if row.score is None else row.score, reverse=True)
        found = tuple(rows)
        stamp = (found, changed_ns(self.folder / "project.toml"))
        if stamp == self._told:
            return None
        self._told = stamp
        is_gone = not (self.folder / "project.toml").is_file()
        return ModelsRead(found, *_used(self.folder), is_gone=is_gone)

    def _row(self, run: Run, role: str, file: Path) -> ModelRow | None:
        try:
            status = file.stat()
        except OSError:
            return None
        key = (str(file), status.st_mtime_ns, status.st_size)
        if key not in self._known:
            self._known[key] = _read(run, role, file, status.st_size, status.st_mtime)
        return self._known[key]


def _used(folder: Path) -> tuple[Path | None, str]:
    """Return the model file that the hot folder uses, or would from its start on, and why."""
    try:
        project = load_project(folder)
        now = watching_run(folder / project.hotfolder.output)
        request = Run(now).record().request if now is not None else None
        if isinstance(request, WatchRequest) and not project.hotfolder.follow:
            return Path(request.model), "the watch that runs was started with it"
        wanted = project.hotfolder.model
        best = choose_best(project) if wanted == "best" else None
        if best is not None:
            return best.file, best.why
        return resolve_model(project, wanted), f"[hotfolder] names {wanted}"
    except (EmcfError, OSError) as error:
        return None, str(error)


def inspect(file: Path, *, verify: bool) -> TextFound:
    """Return what a model file says of itself, or whether it still computes what it did."""
    done = run_command(["inspect", str(file), *(["--verify"] if verify else [])])
    text = done.out.strip() or done.words
    title = f"{file.parent.name}/{file.name}" + (" verified" if verify and done.code == 0 else "")
    return TextFound(title, text if done.code == 0 else f"{text}\n{done.words}")


def set_up(folder: Path, watch: str) -> str:
    """Add [hotfolder] to project.toml, comments kept; a folder inside the project is made.

    Raises: ProjectError, ProjectFaults; InputError for a place that is no folder.
    """
    named = Path(watch).expanduser()
    place = folder / named
    if place.exists() and not place.is_dir():
        raise InputError(place, "is no folder", "Name the folder that the images come into")

    def change(document: Any) -> None:
        table = document.setdefault("hotfolder", import_module("tomlkit").table())
        table["watch"] = str(named)
        table.setdefault("output", "predictions")

    edit_project(folder, change)
    if place.is_relative_to(folder) and ".." not in place.parts:
        place.mkdir(parents=True, exist_ok=True)
    return f"the hot folder is {named}; space starts watching"


def use_in_hot_folder(folder: Path, file: Path) -> str:
    """Write a run's model into [hotfolder] of project.toml, comments kept.

    Raises: ProjectFaults, InputError.
    """
    name = file.parent.name if file.stem == "best" else str(file.relative_to(folder))

    def change(document: Any) -> None:
        if "hotfolder" not in document:
            remedy = "space in Hot folder sets one up"
            raise InputError(folder / "project.toml", "has no [hotfolder]", remedy)
        document["hotfolder"]["model"] = name

    edit_project(folder, change)
    return f"the hot folder uses {name} from its next start on"


def _read(run: Run, role: str, file: Path, num_bytes: int, written: float) -> ModelRow:
    common: dict[str, Any] = {"run": run.id, "role": role, "file": file, "bytes": num_bytes}
    try:
        card = read_card(file)
        record = run.record_if_open()
        is_training = record is not None and isinstance(record.request, TrainRequest)
    except EmcfError as error:
        return ModelRow(
            **common, network="", classes="", score=None, step=0, pixel_nm=None, patch_px=0,
            created="", fault=safe_lines(str(error)),
        )  # fmt: skip
    return ModelRow(
        **common,
        network=f"{card.network.head}/{card.network.backbone}",
        classes=", ".join(card.classes),
        score=card.scores.get("mean_iou") if is_training else None,
        step=card.step,
        pixel_nm=card.pixel_nm,
        patch_px=card.patch_px,
        num_validated=len(card.validated_on) or None,
        created=time.strftime("%d %b %H:%M", time.localtime(written)),
    )
