"""A run as a row of the list, and its events as curves of the charts."""

import statistics
from collections.abc import Sequence

from emcfsys_engine.text import day_clock, span
from emcfsys_tui.view_models import STATE_LOOKS, RunDetail, RunRow
from emcfsys_tui.widgets.canvas import Colour
from emcfsys_tui.widgets.chart import Curve
from emcfsys_tui.widgets.list import Column, Row

RUN_COLUMNS = (
    Column(title="", width=1),
    Column(title="run", width=9),
    Column(title="state", width=13),
    Column(title="best", width=6, right=True),
    Column(title="at step", width=8, right=True, hide_below=90),
    Column(title="step", width=14, right=True),
    Column(title="left", width=7, right=True),
    Column(title="network", cut="middle", hide_below=70),
    Column(title="why, or since", hide_below=110),
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def curves_of_one(detail: RunDetail, colours: Sequence[Colour]) -> dict[str, tuple[Curve, ...]]:
    lines = detail.curves

    def curve(
        line: str, name: str, glyph: str, place: int, best: float | None = None
    ) -> tuple[Curve, ...]:
        if line not in lines:
            return ()
        colour = colours[place % len(colours)]
        return (Curve(name=name, glyph=glyph, view=lines[line], colour=colour, best_x=best),)

    iou = curve("mean", "mean", "●", 0, detail.best_step)
    taken = {"●"}
    for place, name in enumerate(sorted(line for line in lines if line.startswith("iou:"))):
        short = name.removeprefix("iou:")
        glyph = next((c for c in short.lower() + LETTERS if c not in taken and c.isalpha()), "·")
        taken.add(glyph)
        iou += curve(name, short, glyph, place + 1)
    return {
        "loss": curve("train loss", "train", "●", 0) + curve("val loss", "val", "○", 1),
        "iou": iou,
        "rate": curve("learning rate", "rate", "●", 0),
        "speed": curve("images/s", "images/s", "●", 2),
    }


def run_row(run: RunRow, state: str, letter: str) -> Row:
    glyph, tone = STATE_LOOKS.get(state, ("?", ""))
    total = f"/{run.total_steps:,}" if run.total_steps else ""
    return Row(
        key=run.id,
        cells=(
            letter,
            run.id,
            f"{glyph} {state}",
            "–" if run.score is None else f"{run.score:.3f}",
            "" if run.best_step is None else f"{run.best_step:,}",
            f"{run.step:,}{total}" if run.step else "",
            "" if run.seconds_left is None else span(run.seconds_left),
            f"fold {run.fold} · {run.network}" if run.fold else run.network or run.does,
            (f"{run.group} · " if run.group else "") + run.reason.replace("_", " ")
            or day_clock(run.created),
        ),
        tone=tone if state not in ("done", "cancelled") else "",
    )


def folds_words(group: str, folds: Sequence[RunRow]) -> str:
    """Return how well the folds of a cross-validation did: mean and standard deviation."""
    scores = [fold.score for fold in folds if fold.score is not None]
    words = f"{group}: {len(folds)} folds"
    if len(scores) > 1:
        mean, spread = statistics.mean(scores), statistics.stdev(scores)
        words += f", best {mean:.3f} ± {spread:.3f} of {len(scores)}"
    return words
