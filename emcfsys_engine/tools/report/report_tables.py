"""Scores of classes and sources, and what became of images, as tables of a report."""

from collections.abc import Sequence

from emcfsys_engine.run.events import AnyEvent, ImageDone, ImageFailed
from emcfsys_engine.tools.report.report_html import Cell, Markup, folded, number, table
from emcfsys_engine.tools.report.summary import Story

_MOST_IMAGES = 300  # rows of a table that people scroll through


def class_table(story: Story) -> str:
    """Return the scores of each class at the best and at the last validation."""
    if not story.validations:
        return ""
    last = story.validations[-1]
    best = story.best or last
    columns = [
        name
        for name in last.__struct_fields__
        if isinstance(getattr(last, name), dict) and set(getattr(last, name)) == set(last.iou)
    ]
    shown = {"iou": "IoU", "f1": "F1"}
    heads = ["class", ""]
    heads += [f"{shown.get(name, name.replace('_', ' '))}, best" for name in columns]
    heads += ["IoU, last"]
    rows: list[Sequence[Cell]] = []
    for name in last.iou:
        values = [_fixed(getattr(best, column, {}).get(name)) for column in columns]
        rows.append([name, _bar(best.iou.get(name)), *values, _fixed(last.iou.get(name))])
    between = [Markup(html="")] * (len(columns) - 1)
    mean = [_bar(best.mean_iou), _fixed(best.mean_iou), *between, _fixed(last.mean_iou)]
    rows.append(["mean", *mean])
    words = (
        f"Best: step {best.step:,}, last: step {last.step:,}. "
        "A dash: the class is in neither truth nor prediction."
    )
    return table(heads, rows, kind="numbers") + f'<p class="soft">{words}</p>'


def source_table(story: Story) -> str:
    """Return the score of each data source, where there are several."""
    best = story.best
    if best is None or len(best.source_mean_iou) < 2:
        return ""
    rows = [[name, _bar(value), _fixed(value)] for name, value in best.source_mean_iou.items()]
    return table(["source", "", "mean IoU, best"], rows, kind="numbers")


def failed_images(events: Sequence[AnyEvent]) -> str:
    """Return the images that could not be predicted, with the reason."""
    failed = [event for event in events if isinstance(event, ImageFailed)]
    rows = [[event.image, event.reason] for event in failed[:_MOST_IMAGES]]
    return table(["could not be predicted", "why"], rows)


def image_table(events: Sequence[AnyEvent]) -> str:
    """Return area fractions over all images, and each image."""
    done = [event for event in events if isinstance(event, ImageDone)]
    if not done:
        return ""
    names = list(dict.fromkeys(name for event in done for name in event.shares))
    shares = {
        name: [event.shares[name] for event in done if name in event.shares] for name in names
    }
    means = table(
        ["class", "", "mean area fraction", "lowest", "highest"],
        [
            [name, _bar(sum(v) / len(v)), sum(v) / len(v), min(v), max(v)]
            for name, v in shares.items()
        ],
        kind="numbers",
    )
    has_lag = any(event.lag_s is not None for event in done)
    heads = ["image", *names, "confidence", "seconds", *(["lag s"] if has_lag else []), "unlike"]
    rows: list[Sequence[Cell]] = []
    for event in done[-_MOST_IMAGES:]:
        cells: list[Cell] = [event.image, *(event.shares.get(name) for name in names)]
        cells += [event.confidence, event.seconds]
        cells += [event.lag_s] if has_lag else []
        rows.append([*cells, event.unlike])
    shown = "" if len(done) <= _MOST_IMAGES else f", the last {_MOST_IMAGES:,} of {len(done):,}"
    return means + folded(f"Each image{shown}", table(heads, rows, kind="numbers"))


def _fixed(value: float | None) -> Markup:
    return Markup(html=number(value), kind="n")


def _bar(share: float | None) -> Markup:
    if share is None:
        return Markup(html="")
    percent = 100 * min(1.0, max(0.0, share))
    return Markup(html=f'<span class="bar"><i style="width:{percent:.1f}%"></i></span>')
