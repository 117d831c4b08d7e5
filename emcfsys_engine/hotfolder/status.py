"""How a hot folder is doing: told from its ledger and its newest run, watched or not."""

import time
from collections import Counter
from statistics import median
from typing import Any

from emcfsys_engine.errors import printable
from emcfsys_engine.hotfolder.ledger import read_ledger, watcher_of, watching_run
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import ImageDone, ImageFailed, WatchState
from emcfsys_engine.run.folder import Run, WatchRequest, list_runs

_RECENT_S = 300.0
_BACKENDS = {"watching": "events", "polling": "polling"}  # by the state that tells of it


def watch_of(project: Project) -> Run | None:
    """Return the run that watches a project's folder now, else its newest watch."""
    folder = watching_run(project.folder / project.hotfolder.output)
    if folder is not None:
        return Run(folder)
    for run in reversed(list_runs(project.folder)):
        if isinstance(run.record().request, WatchRequest):
            return run
    return None


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
    now = time.time()
    recent = [event for event in done if now - event.time < _RECENT_S]
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
        "images_per_min": round(len(recent) / (_RECENT_S / 60), 2),
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
