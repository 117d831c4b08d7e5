"""How a hot folder is doing: told from its ledger and its newest run, watched or not."""

import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from emcfsys_engine.errors import EmcfError, InputError, RunFolderError, printable
from emcfsys_engine.hotfolder.ledger import read_ledger, watcher_of, watching_run
from emcfsys_engine.hotfolder.notifier import choose_backend
from emcfsys_engine.hotfolder.places import watched_places
from emcfsys_engine.hotfolder.scan import Rules, Scanner
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import ImageDone, ImageFailed, RunStarted, WatchState
from emcfsys_engine.run.folder import Run, list_runs
from emcfsys_engine.run.lines import images_per_min
from emcfsys_engine.run.records import TrainRequest, WatchRequest


def what_it_would_do(project: Project) -> dict[str, Any]:
    """Return the model, the way of watching, and the files that would be segmented.

    Raises: ProjectError for folders that a watch refuses.
    """
    settings = project.hotfolder
    root, output = watched_places(project)
    backend, why = choose_backend(root, settings.backend)
    try:
        model = str(resolve_model(project, settings.model))
    except EmcfError as error:
        model = str(error)
    known = {entry.path: entry for entry in read_ledger(output)}
    rules = Rules(
        root=root,
        output=Path(output),
        settle_s=0,
        closed_settle_s=0,
        min_bytes=settings.min_bytes,
        ignore=settings.ignore,
    )
    scanner = Scanner(rules, known)
    scanner.scan()
    waiting = sorted(scanner.settling)
    lines = [
        f"watches {root}: {'it does not exist' if scanner.offline else f'{backend}, {why}'}",
        f"model {model}",
        f"writes to {output}",
        f"{len(waiting)} to segment, {len(known)} known",
        *(f"  {path}" for path in waiting[:20]),
    ]
    if len(waiting) > 20:
        lines.append(f"  … and {len(waiting) - 20} more")
    return {"backend": backend, "model": model, "waiting": waiting, "lines": lines}


def resolve_model(project: Project, wanted: str) -> Path:
    """Return the model file that "best", a run's name or a path stands for.

    Raises: InputError if there is none, or if its classes are not the project's.
    """
    if wanted == "best":
        file = best_model(project)
        if file is None:
            remedy = "Train one: emcfsys-engine train " + str(project.file)
            raise InputError(project.file, "has no finished run with these classes", remedy)
        return file
    run = Run(project.runs_folder / wanted)
    file = run.best_model if run.record_file.exists() else (project.folder / wanted)
    card = read_card(file)
    if not fits(project, card):
        what = f"its classes are {', '.join(card.classes)}, not the project's"
        raise InputError(file, what, "Name a model of this project")
    return file.absolute()


def best_model(project: Project) -> Path | None:
    """Return the best model of the newest finished training with the project's classes.

    A training that finished once stays so while it is extended, and if that is cancelled or fails.
    """
    for run in reversed(list_runs(project.folder)):
        try:
            if not isinstance(run.record().request, TrainRequest):
                continue
            if not run.final_model.is_file() and run.state() != "done":
                continue
            if fits(project, read_card(run.best_model)):
                return run.best_model
        except (EmcfError, OSError):
            continue  # a run without a usable model is passed over
    return None


def fits(project: Project, card: ModelCard) -> bool:
    """Tell whether a model's classes and values are the project's."""
    return card.classes == project.class_names and card.class_values == project.class_values


_BACKENDS = {"watching": "events", "polling": "polling"}  # by the state that tells of it


def watch_of(project: Project) -> Run | None:
    """Return the run that watches a project's folder now, else its newest watch."""
    folder = watching_run(project.folder / project.hotfolder.output)
    if folder is not None:
        return Run(folder)
    for run in reversed(list_runs(project.folder)):
        if _is_watch(run):
            return run
    return None


def _is_watch(run: Run) -> bool:
    """Tell whether a run is a watch: by what was asked, or said where that may not be read."""
    try:
        return isinstance(run.record().request, WatchRequest)
    except RunFolderError:
        return any(
            isinstance(event, RunStarted) and event.does == "watch" for event in run.events()
        )


def status_of(project: Project) -> dict[str, Any]:
    """Return state, backend, counts, lag, images a minute and the last error."""
    output = project.folder / project.hotfolder.output
    run = watch_of(project)
    events = run.events() if run else []
    states = [event for event in events if isinstance(event, WatchState)]
    done = [event for event in events if isinstance(event, ImageDone)]
    failures = [event for event in events if isinstance(event, ImageFailed)]
    counts = Counter(entry.state for entry in read_ledger(output))
    lags = [event.lag_s for event in done[-100:] if event.lag_s is not None]
    is_watched = watcher_of(output) is not None
    backends = [_BACKENDS[event.state] for event in states if event.state in _BACKENDS]
    return {
        "state": (states[-1].state if states else "starting") if is_watched else "stopped",
        "detail": states[-1].detail if states else "",
        "backend": backends[-1] if backends else None,
        "run": str(run.folder) if run else None,
        "done": counts["done"],
        "failed": counts["failed"],
        "trying": counts["trying"],
        "skipped": counts["skipped"],
        "unlike_training_data": sum(bool(event.unlike) for event in done),
        "median_lag_s": round(median(lags), 3) if lags else None,
        "images_per_min": images_per_min([event.time for event in done], time.time()),
        "last_error": failures[-1].reason if failures else None,
    }


def text_of(found: dict[str, Any]) -> str:
    """Return a status in a few lines for a terminal."""
    lag = found["median_lag_s"]
    counts = "  ".join(f"{name} {found[name]}" for name in ("done", "failed", "trying", "skipped"))
    shown_lag = "–" if lag is None else f"{lag:.2f} s"
    lines = [
        f"{found['state'].upper()} {found['detail']}",
        f"{counts}  unlike training data {found['unlike_training_data']}",
        f"median lag {shown_lag}  {found['images_per_min']:g} images/min",
    ]
    if found["last_error"]:
        lines.append(f"last error: {found['last_error']}")
    return "\n".join(printable(line.strip()) for line in lines)
