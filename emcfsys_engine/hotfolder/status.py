"""How a hot folder is doing: told from its ledger and its newest run, watched or not."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from emcfsys_engine.errors import EmcfError, InputError, RunFolderError, printable
from emcfsys_engine.files import is_away
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.notifier import choose_backend
from emcfsys_engine.hotfolder.places import watched_places, watcher_of, watching_run
from emcfsys_engine.hotfolder.recipe import read_recipe, refuse_other
from emcfsys_engine.hotfolder.review import overview
from emcfsys_engine.hotfolder.scan import Scanner, rules_of
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import ImageDone, ImageFailed, RunStarted, WatchState
from emcfsys_engine.run.folder import Run, list_runs
from emcfsys_engine.run.lines import images_per_min
from emcfsys_engine.run.outcome import became_of_images
from emcfsys_engine.run.records import TrainRequest, WatchRequest, is_of, validated_on
from emcfsys_engine.text import few, for_shell
from emcfsys_engine.verdicts import STATES

FinishedRun = tuple[Run, ModelCard]


def what_it_would_do(project: Project) -> dict[str, Any]:
    """Return the model, the way of watching, and the files that would be segmented.

    Raises: InputError for what a watch refuses.
    """
    settings = project.hotfolder
    request = watch_request(project)
    root, output, model = Path(request.watch), Path(request.output), request.model
    backend, why = choose_backend(root, settings.backend)
    best = choose_best(project) if settings.model == "best" else None
    model += f": {best.why}" if best is not None else ""
    known = {entry.path: entry for entry in read_ledger(output)}
    scanner = Scanner(rules_of(project, request, backend), known)
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


def watch_request(
    project: Project, *, once: bool = False, recipe: Path | None = None
) -> WatchRequest:
    """Return what a watch of the project is asked: its folders and its model are settled now.

    Raises: ProjectError without hotfolder.watch or for folders that meet; InputError if there is no
    such model, somebody watches the folder already, or the project is not as the recipe says.
    """
    root, output = watched_places(project)
    other = watcher_of(output)
    if other is not None:
        raise InputError(output, f"is watched already, by {other}", "Stop that watch first")
    if recipe is not None:
        model = refuse_other(recipe, read_recipe(recipe), project)
    else:
        model = resolve_model(project, project.hotfolder.model)
    return WatchRequest(
        model=str(model),
        watch=str(root),
        output=str(output),
        once=once,
        recipe=str(recipe.absolute()) if recipe is not None else "",
    )


def resolve_model(project: Project, wanted: str) -> Path:
    """Return the model file that "best", a run's name or a path stands for.

    Raises: InputError if there is none, or if its classes are not the project's.
    """
    if wanted == "best":
        return _best_or_why_none(project)
    run = Run(project.runs_folder / wanted)
    file = run.best_model if run.record_file.exists() else (project.folder / wanted)
    card = read_card(file)
    if not fits(project, card):
        what = f"its classes are {', '.join(card.classes)}, not the project's"
        raise InputError(file, what, "Name a model of this project")
    return file.absolute()


def _best_or_why_none(project: Project) -> Path:
    try:
        finished, unread = _finished(project)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        place = error.filename or project.runs_folder
        raise InputError(place, what, "Mend its disk, or name a model") from None
    if finished:
        return _best_of(finished, unread).file
    if unread:
        what = f"has no finished run with these classes but what may not be read: {few(unread, 3)}"
        raise InputError(project.runs_folder, what, "Ask their owner, or name a model")
    remedy = "Train one: emcfsys-engine train " + for_shell(project.file)
    raise InputError(project.file, "has no finished run with these classes", remedy)


@dataclass(frozen=True, kw_only=True)
class BestModel:
    """The model that "best" stands for, and why it is that one."""

    file: Path
    run: str
    why: str


def choose_best(project: Project) -> BestModel | None:
    """Return the best model of the finished trainings that can be compared with the newest.

    Comparable are those with the project's classes and the newest one's validation images and
    labels: scores of others, or by labels that were corrected since, say nothing. Among equals the
    newest. A training that finished once stays so while it is extended, and if that is cancelled
    or fails. What may not be read, or is damaged, is passed over.
    Raises: OSError where a disk fails: another model would be the best as long as it does.
    """
    finished, unread = _finished(project)
    return _best_of(finished, unread) if finished else None


def _finished(project: Project) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished trainings with the project's classes, and runs that may not be read."""
    unread: list[str] = []
    every = [found for run in list_runs(project.folder) if (found := _card(run, project, unread))]
    return [(run, card) for run, card in every if fits(project, card)], unread


def _best_of(finished: list[FinishedRun], unread: list[str]) -> BestModel:
    newest = max(finished, key=_age)
    alike = [one for one in finished if _is_comparable(one, newest)]
    run, card = max(alike, key=lambda one: (_iou(one[1]), _age(one)))
    why = _why(card, len(alike), len(finished))
    if unread:
        why += f"; passed over, as they may not be read: {few(unread, 3)}"
    return BestModel(file=run.best_model, run=run.id, why=why)


def _age(one: FinishedRun) -> tuple[int, str, str]:
    """Return what sorts runs from old to new, whatever a person called their folders."""
    name = one[1].run or one[0].id
    return len(name), name, one[0].id


def _is_comparable(one: FinishedRun, newest: FinishedRun) -> bool:
    """Tell whether two scores are of the same images, and of the same labels where both say so."""
    if one is newest:
        return True
    images = newest[1].validated_on
    if not images or one[1].validated_on != images:
        return False
    before, now = validated_on(one[0].plan_file), validated_on(newest[0].plan_file)
    return all(
        not before.get(name) or not now.get(name) or before[name] == now[name] for name in images
    )


def best_model(project: Project) -> Path | None:
    """Return the file of the model that "best" stands for; None where no training finished."""
    best = choose_best(project)
    return best.file if best is not None else None


def _card(run: Run, project: Project, unread: list[str]) -> FinishedRun | None:
    """Return a finished training of the project with what its best model says; else None.

    One that follows the labels publishes each better model while it trains: it counts, too.
    Adds to `unread` what only others may read. Raises: OSError where a disk fails.
    """
    try:
        record = run.record()
        is_training = isinstance(record.request, TrainRequest)
        if not is_training or not is_of(record, project.folder):
            return None
        follows = record.project is not None and record.project.training.follow
        if not follows and not run.final_model.is_file() and run.state() != "done":
            return None
        return run, read_card(run.best_model)
    except (EmcfError, OSError) as error:
        fault = error if isinstance(error, OSError) else error.__context__
        if type(fault) is PermissionError:  # and no link or folder in the place of our file
            unread.append(run.id)
        elif isinstance(fault, OSError) and is_away(fault):
            raise fault from None
        return None  # a run without a usable model is passed over


def _iou(card: ModelCard) -> float:
    score = card.scores.get("mean_iou")
    return -1.0 if score is None else score


def _why(card: ModelCard, num_alike: int, num_finished: int) -> str:
    iou = f"IoU {_iou(card):.3f}" if _iou(card) >= 0 else "no IoU"
    if num_finished == 1:
        return f"{iou}, the only finished run with these classes"
    if num_alike == 1:
        return f"{iou}, the newest finished run: no other has the same validation images, or labels"
    return f"best IoU {_iou(card):.3f} of {num_alike} finished runs with the same validation images"


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
        if is_watch_of(run, project.folder):
            return run
    return None


def is_watch_of(run: Run, project_folder: Path) -> bool:
    """Tell whether a run is a watch of a project: by what was asked, or said if that is unread."""
    try:
        record = run.record()
        return isinstance(record.request, WatchRequest) and is_of(record, project_folder)
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
    became = became_of_images(events)
    failures = [event for event in became if isinstance(event, ImageFailed)]
    known = overview(output)
    by_verdict = Counter(group.state for group in known.groups)
    lags = [event.lag_s for event in done[-100:] if event.lag_s is not None]
    is_watched = watcher_of(output) is not None
    backends = [_BACKENDS[event.state] for event in states if event.state in _BACKENDS]
    return {
        "state": (states[-1].state if states else "starting") if is_watched else "stopped",
        "detail": states[-1].detail if states else "",
        "backend": backends[-1] if backends else None,
        "run": str(run.folder) if run else None,
        **{state: known.states.get(state, 0) for state in ("done", "failed", "trying", "skipped")},
        **{f"verdict_{state}": known.verdicts.get(state, 0) for state in STATES},
        "groups": len(known.groups),
        **{f"groups_{state}": by_verdict[state] for state in STATES},
        "recipe": known.recipe,
        "unlike_training_data": sum(isinstance(e, ImageDone) and bool(e.unlike) for e in became),
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
    if any(found[f"verdict_{state}"] for state in STATES):
        judged = "  ".join(f"{state.upper()} {found[f'verdict_{state}']}" for state in STATES)
        lines.insert(2, f"verdicts: {judged}")
    if any(found[f"groups_{state}"] for state in STATES):
        judged = "  ".join(f"{state.upper()} {found[f'groups_{state}']}" for state in STATES)
        lines.insert(3, f"groups: {judged}")
    if found["recipe"]:
        lines.append(f"recipe {found['recipe']}")
    if found["last_error"]:
        lines.append(f"last error: {found['last_error']}")
    return "\n".join(printable(line.strip()) for line in lines)
