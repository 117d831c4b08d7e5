"""A run as a row of the list, its events as curves of the charts, and which runs a filter means."""

import re
import statistics
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from emcfsys_engine.colours import class_letters
from emcfsys_engine.errors import InputError
from emcfsys_engine.text import day_clock, span
from emcfsys_tui.text import reason_words
from emcfsys_tui.view_models import STATE_LOOKS, RunDetail, RunRow
from emcfsys_tui.widgets.canvas import Colour
from emcfsys_tui.widgets.chart import Curve
from emcfsys_tui.widgets.list import Column, Row

NO_RUNS = (
    "No runs yet. 2 goes to Train: choose a preset and press s.\n"
    "1 goes to Data: look at the images and their labels first."
)
RUN_COLUMNS = (
    Column(title="", width=1),
    Column(title="run", width=9),
    Column(title="state", width=13),
    Column(title="best", width=6, right=True),
    Column(title="at step", width=8, right=True, hide_below=90),
    Column(title="step", width=14, right=True),
    Column(title="rate", width=11, right=True, hide_below=100),
    Column(title="left", width=7, right=True),
    Column(title="network", cut="middle", hide_below=70),
    Column(title="why, or since", hide_below=110),
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def own_places(names: Sequence[str], num: int) -> dict[str, int]:
    """Return for each run a place among `num` that it keeps whatever is drawn beside it.

    It is told by the run's number; only where two want the same one the newer takes the next free.
    """
    places: dict[str, int] = {}
    for name in sorted(names):
        wanted = int("".join(filter(str.isdigit, name)) or 0) - 1
        tries = [(wanted + step) % num for step in range(num)]
        places[name] = next((one for one in tries if one not in places.values()), tries[0])
    return places


def letters_of(drawn: Sequence[str]) -> dict[str, str]:
    """Return the letter of each run that is drawn, where several are."""
    places = own_places(drawn, len(LETTERS)) if len(drawn) > 1 else {}
    return {name: LETTERS[place] for name, place in places.items()}


def curves_of_one(
    detail: RunDetail, colours: Sequence[Colour], class_colours: Sequence[Colour]
) -> dict[str, tuple[Curve, ...]]:
    """Return the curves of each chart; classes in their own colours and their order."""
    lines = detail.curves

    def curve(
        line: str, name: str, glyph: str, colour: Colour, best: float | None = None
    ) -> tuple[Curve, ...]:
        if line not in lines:
            return ()
        return (Curve(name=name, glyph=glyph, view=lines[line], colour=colour, best_x=best),)

    iou = curve("mean", "mean", "●", colours[0], detail.best_step)
    names = [score.name for score in detail.classes]
    for name, glyph, colour in zip(names, class_letters(names), class_colours, strict=True):
        iou += curve(f"iou:{name}", name, glyph, colour)
        iou += curve(f"pq:{name}", f"{name} PQ", "◆", colour)
    return {
        "loss": curve("train loss", "train", "●", colours[0])
        + curve("val loss", "val", "○", colours[1]),
        "iou": iou,
        "rate": curve("learning rate", "rate", "●", colours[0]),
        "speed": curve("images/s", "images/s", "●", colours[2]),
        "cpu": curve("processors", "processors", "●", colours[3]),
        "memory": curve("memory", "memory", "●", colours[3]),
        "gpu": curve("GPU", "GPU", "●", colours[4]),
        "gpu-memory": curve("GPU memory", "GPU memory", "●", colours[4]),
    }


def run_row(run: RunRow, state: str, letter: str) -> Row:
    glyph, tone = STATE_LOOKS.get(state, ("?", ""))
    total = f"/{run.total_steps:,}" if run.total_steps else ""
    return Row(
        key=run.id,
        cells=(
            letter,
            run.id,
            f"{glyph} {run.phase if state == 'running' and run.phase else state}",
            "–" if run.score is None else f"{run.score:.3f}",
            "" if run.best_step is None else f"{run.best_step:,}",
            f"{run.step:,}{total}" if run.step else "",
            run.rate,
            "" if run.seconds_left is None else span(run.seconds_left),
            f"fold {run.fold} · {run.network}" if run.fold else run.network or run.does,
            (f"{run.group} · " if run.group else "") + reason_words(run.reason)
            or _progress_bar(run)
            or day_clock(run.created),
        ),
        tone=tone if state not in ("done", "cancelled") else "",
    )


def _progress_bar(run: RunRow) -> str:
    """Return how far a run is that has an end, in ten cells."""
    if not run.total_steps or run.seconds_left is None:
        return ""
    done = round(10 * min(1.0, run.step / run.total_steps))
    return "▓" * done + "░" * (10 - done)


def folds_of(group: str, runs: Sequence[RunRow]) -> list[RunRow]:
    """Return the folds of a cross-validation in their order; copies do not count twice."""
    found: dict[int, RunRow] = {}
    for run in sorted(runs, key=lambda run: run.is_copy):
        if run.group == group:
            found.setdefault(run.fold, run)
    return [fold for _, fold in sorted(found.items())]


def folds_words(group: str, folds: Sequence[RunRow]) -> str:
    """Return how well the folds of a cross-validation did: mean and standard deviation."""
    scores = [fold.score for fold in folds if fold.score is not None]
    number = dict(folds[0].settings).get("training.kfold", str(len(folds)))
    gone = f" of {number}" if number != str(len(folds)) else ""
    words = f"{group}: {len(folds)}{gone} folds"
    if len(scores) > 1:
        mean, spread = statistics.mean(scores), statistics.stdev(scores)
        words += f", best {mean:.3f} ± {spread:.3f} of {len(scores)}"
    if under_way := sum(fold.state != "done" for fold in folds):
        words += f"; {under_way} not done"
    return words


# A filter of runs in a line of words: iou>.8 backbone:resnet* failed.
#
# All words must hold. `key>value` (also < >= <= =) compares numbers, `key:glob` words; a key is
# iou, step, state, network, reason, group, or any setting of project.toml by its name
# (training.loss, or loss). A word alone is looked for in the run's name, state, network and reason.
Test = Callable[[RunRow], bool]

_TERM = re.compile(r"([\w.]+)(>=|<=|!=|>|<|=|:)(.*)")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def filter_of(text: str) -> Test:
    """Return whether a run is meant by these words.

    Raises: InputError for a comparison without a number.
    """
    tests = [_test(word) for word in text.split()]
    return lambda run: all(test(run) for test in tests)


def _test(word: str) -> Test:
    term = _TERM.fullmatch(word)
    if term is None:
        low = word.lower()
        return lambda run: any(low in text.lower() for text in _texts(run))
    key, sign, wanted = term[1].lower(), term[2], term[3]
    if sign == ":":
        glob = wanted.lower() if "*" in wanted or "?" in wanted else f"*{wanted.lower()}*"
        return lambda run: fnmatchcase(value_of(run, key).lower(), glob)
    number = _number(wanted)
    if number is None:
        if sign in ("=", "!="):
            return lambda run: (value_of(run, key).lower() == wanted.lower()) == (sign == "=")
        raise InputError(word, "compares with no number", "Write one like iou>.8")
    compare = _COMPARE[sign]

    def holds(run: RunRow) -> bool:
        here = _number(value_of(run, key))
        return here is not None and compare(here, number)

    return holds


def value_of(run: RunRow, key: str) -> str:
    """Return what a run has for a key; empty where it has nothing."""
    known = {
        "iou": "" if run.score is None else str(run.score),
        "best": "" if run.score is None else str(run.score),
        "step": str(run.step),
        "state": run.state,
        "network": run.network,
        **dict.fromkeys(("backbone", "model.backbone"), run.network.partition("/")[2]),
        "reason": run.reason,
        "group": run.group,
        "does": run.does,
        "run": run.id,
    }
    if known.get(key):
        return known[key]
    found = (value for name, value in run.settings if key in (name, name.rpartition(".")[2]))
    return next(found, "")


def _texts(run: RunRow) -> tuple[str, ...]:
    return run.id, run.state, run.network, run.reason, run.does, run.group


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
