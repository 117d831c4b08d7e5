"""report: one HTML page that tells a run whole, for a colleague without EMCFsys or a network."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from emcfsys_engine.colours import class_letters
from emcfsys_engine.run.events import (
    AnyEvent,
    CheckpointSaved,
    ImageDone,
    ImageFailed,
    ItemDone,
    RunResumed,
    StepDone,
    ValidationDone,
    WarningGiven,
    WatchState,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.outcome import became_of_images
from emcfsys_engine.run.records import RunRecord
from emcfsys_engine.text import flattened, span
from emcfsys_engine.tools.report.charts import (
    Cell,
    Chart,
    Curve,
    Markup,
    Point,
    class_name,
    escaped,
    figure_of,
    folded,
    number,
    page,
    save_page,
    section,
    table,
)
from emcfsys_engine.tools.report.pictures import overlays, previews
from emcfsys_engine.tools.report.sizes import numbers_section
from emcfsys_engine.tools.report.summary import RunSummary, read_summary
from emcfsys_engine.verdicts import STATES

_MOST_IMAGES = 300  # rows of a table that people scroll through


def class_table(summary: RunSummary) -> str:
    """Return the scores of each class at the best and at the last validation."""
    if not summary.validations:
        return ""
    last = summary.validations[-1]
    best = summary.best or last
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
    letters = class_letters(list(last.iou))
    for place, (name, letter) in enumerate(zip(last.iou, letters, strict=True)):
        values = [_fixed(getattr(best, column, {}).get(name)) for column in columns]
        shown_name = Markup(html=class_name(name, letter, place))
        rows.append([shown_name, _bar(best.iou.get(name)), *values, _fixed(last.iou.get(name))])
    between = [Markup(html="")] * (len(columns) - 1)
    mean = [_bar(best.mean_iou), _fixed(best.mean_iou), *between, _fixed(last.mean_iou)]
    rows.append(["mean", *mean])
    words = (
        f"Best: step {best.step:,}, last: step {last.step:,}. "
        "A dash: the class is in neither truth nor prediction."
    )
    return table(heads, rows, kind="numbers") + f'<p class="soft">{words}</p>'


def _in_colours(summary: RunSummary, pictures: str) -> str:
    """Return pictures below what their colours mean; nothing where there are none."""
    validations, project = summary.validations, summary.record.project
    names = list(validations[-1].iou if validations else project.class_names if project else ())
    if not pictures or not names:
        return pictures
    letters = enumerate(zip(names, class_letters(names), strict=True))
    words = "".join(f"<span>{class_name(*one, place)}</span>" for place, one in letters)
    return f'<div class="legend">{words}</div>{pictures}'


def object_table(summary: RunSummary) -> str:
    """Return how well the objects of each class are found, at the best validation."""
    best = summary.best or (summary.validations[-1] if summary.validations else None)
    if best is None or not best.objects:
        return ""
    heads = ["objects of", "AP50", "AP50:95", "PQ", "SQ", "RQ"]
    heads += ["found", "true", "splits", "merges", "error of sizes"]
    rows: list[Sequence[Cell]] = []
    for name, one in best.objects.items():
        scores = [_fixed(value) for value in (one.ap50, one.ap50_95, one.pq, one.sq, one.rq)]
        counts = [f"{n:,}" for n in (one.num_found, one.num_true, one.splits, one.merges)]
        error = "–" if one.size_error is None else f"{one.size_error:.4g} {one.size_unit}"
        rows.append([name, *scores, *counts, error])
    return table(heads, rows, kind="numbers")


def source_table(summary: RunSummary) -> str:
    """Return the score of each data source, where there are several."""
    best = summary.best
    if best is None or len(best.source_mean_iou) < 2:
        return ""
    rows = [[name, _bar(value), _fixed(value)] for name, value in best.source_mean_iou.items()]
    return table(["source", "", "mean IoU, best"], rows, kind="numbers")


def failed_images(events: Sequence[AnyEvent]) -> str:
    """Return the images that could not be predicted, with the reason."""
    failed = [event for event in became_of_images(events) if isinstance(event, ImageFailed)]
    rows = [[event.image, event.reason] for event in failed[:_MOST_IMAGES]]
    return table(["could not be predicted", "why"], rows)


def image_table(events: Sequence[AnyEvent]) -> str:
    """Return area fractions over all images, and each image."""
    done = [event for event in became_of_images(events) if isinstance(event, ImageDone)]
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
    is_judged = any(event.verdict for event in done)
    heads += ["verdict", "why"] if is_judged else []
    rows: list[Sequence[Cell]] = []
    for event in done[-_MOST_IMAGES:]:
        cells: list[Cell] = [event.image, *(event.shares.get(name) for name in names)]
        cells += [event.confidence, event.seconds]
        cells += [event.lag_s] if has_lag else []
        cells += [event.unlike]
        cells += [event.verdict.upper(), "; ".join(event.verdict_reasons)] if is_judged else []
        rows.append(cells)
    if is_judged:
        means += _verdicts(done)
    shown = "" if len(done) <= _MOST_IMAGES else f", the last {_MOST_IMAGES:,} of {len(done):,}"
    return means + folded(f"Each image{shown}", table(heads, rows, kind="numbers"))


def _verdicts(done: Sequence[ImageDone]) -> str:
    """Return how many images have which verdict: masks of FAIL are kept, and counted above."""
    counts = Counter(event.verdict for event in done)
    rows = [[state.upper(), counts[state], counts[state] / len(done)] for state in STATES]
    rows += [["not judged", counts[""], counts[""] / len(done)]] if counts[""] else []
    return table([f"verdict when predicted, of {len(done):,}", "images", "share"], rows)


def _fixed(value: float | None) -> Markup:
    return Markup(html=number(value), kind="n")


def _bar(share: float | None) -> Markup:
    if share is None:
        return Markup(html="")
    percent = 100 * min(1.0, max(0.0, share))
    return Markup(html=f'<span class="bar"><i style="width:{percent:.1f}%"></i></span>')


_MOST_CHARACTERS = 400
_OPEN = "not set"
_APART = ("format", "reasons", "train_images", "val_images")


def settings_section(record: RunRecord) -> str:
    """Return what the run was asked and the project it used."""
    asked = {"request": msgspec.to_builtins(record.request), "seed": record.seed}
    project = msgspec.to_builtins(record.project) if record.project is not None else {}
    rows = [*_settings(asked), *_settings(project)]
    said = [row for row in rows if row[1] != _OPEN]
    left = [row for row in rows if row[1] == _OPEN]
    return section(
        "Settings",
        table(["", ""], said, kind="facts"),
        folded(f"Left open ({len(left)})", table(["", ""], left, kind="facts")),
    )


def plan_section(plan: Mapping[str, Any]) -> str:
    """Return every choice that the run made for itself, with its reason."""
    reasons = plan.get("reasons")
    reasons = reasons if isinstance(reasons, dict) else {}
    rows: list[Sequence[Cell]] = []
    told: set[str] = set()
    for key, value in plan.items():
        if key in _APART:
            continue
        for name, words in _settings({key: value}):
            reason = reasons.get(name, "")
            told.add(str(name))
            rows.append([name, words, str(reason)])
    rows += [[str(key), "", str(why)] for key, why in reasons.items() if key not in told]
    lists = "".join(
        folded(f"{word} images ({len(names)})", table(["", ""], [[str(name)] for name in names]))
        for word, key in (("Training", "train_images"), ("Validation", "val_images"))
        if isinstance(names := plan.get(key), list) and names
    )
    chosen = table(["choice", "value", "reason"], rows, kind="facts") if rows else ""
    return section("Plan", chosen, lists)


def environment_section(summary: RunSummary) -> str:
    """Return versions, interpreter, folders and the variables the worker knew."""
    record = summary.record
    rows: list[Sequence[Cell]] = [[name, version] for name, version in record.versions.items()]
    rows += [["interpreter", record.python], ["started in", record.folder]]
    rows.append(["run folder", str(summary.run.folder)])
    variables = table(["", ""], sorted(record.environment.items()), kind="facts")
    return section(
        "Environment",
        table(["", ""], rows, kind="facts"),
        folded(f"Environment variables ({len(record.environment)})", variables),
    )


def _settings(document: Any) -> list[Sequence[Cell]]:
    """Return nested settings as rows of key and value."""
    return [[key, _words(value)] for key, value in flattened(document).items()]


def _words(value: Any) -> str:
    if value is None:
        return _OPEN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list | tuple | dict):
        words = ", ".join(_words(one) for one in value) if value else "none"
        return words if len(words) <= _MOST_CHARACTERS else f"{words[:_MOST_CHARACTERS]}…"
    return str(value)


_FIRST_WARNINGS = 6
_MOST_WARNINGS = 200


def write_report(run: Run, out: Path | None = None, numbers: Path | None = None) -> Path:
    """Write the page of a run, in its folder or as `out`, and return its file.

    numbers is a folder that measure wrote: its distributions and grain maps join the page.
    Raises: RunFolderError if the folder holds no run, or the page cannot be written; InputError if
    it would replace a file that is not ours, or numbers holds none.
    """
    file = out or run.folder / "report.html"
    save_page(file, report_page(run, numbers), run.folder)
    return file


def report_page(run: Run, numbers: Path | None = None) -> str:
    """Return the page of a run of any kind, also of one that still goes on."""
    summary = read_summary(run)
    events = summary.events
    best_step = summary.best.step if summary.best else None
    parts = [
        _header(summary),
        _tiles(summary),
        section("Warnings", _warnings(events)),
        section("Curves", _curves(summary)),
        section("Classes", class_table(summary), object_table(summary), source_table(summary)),
        section("Previews", _in_colours(summary, previews(run, events, best_step))),
        section(
            "Images",
            failed_images(events),
            image_table(events),
            _in_colours(summary, overlays(events)),
        ),
        numbers_section(numbers) if numbers is not None else "",
        _ending(summary),
        settings_section(summary.record),
        plan_section(summary.plan),
        environment_section(summary),
        _footer(),
    ]
    return page(f"{summary.title} – EMCFsys", "".join(parts))


DOES = {
    "train": "Training",
    "predict": "Prediction",
    "watch": "Watch",
    "evaluate": "Evaluation",
    "measure": "Measurement",
    "convert": "Conversion",
}


def _header(summary: RunSummary) -> str:
    started = _moment(summary.began or summary.record.created)
    does = DOES[summary.does]
    words = [f"{does} {summary.run.id}", f"started {started}", summary.device]
    reason = f" {escaped(summary.reason)}" if summary.reason not in ("", summary.state) else ""
    return (
        f"<h1>{escaped(summary.title)}</h1>"
        f'<p class="soft">{escaped(" · ".join(word for word in words if word))}</p>'
        f'<p><span class="badge {summary.state}">{summary.state}</span>{reason}</p>'
    )


def _tiles(summary: RunSummary) -> str:
    tiles: list[tuple[str, str]] = []
    best = summary.best
    if best is not None:
        word = summary.record.project.training.best_by if summary.record.project else "score"
        word = word.replace("_", " ").replace("iou", "IoU")
        tiles.append((number(best.score), f"best {word}, step {best.step:,}"))
    if summary.does == "train":
        total = f" of {summary.total_steps:,}" if summary.total_steps else ""
        tiles.append((f"{summary.step:,}", f"steps{total}"))
    steps = [event for event in summary.events if isinstance(event, StepDone)]
    if steps:
        tiles.append((f"{steps[-1].loss:.4g}", "last training loss"))
    validations = summary.validations
    if validations:
        tiles.append((f"{validations[-1].images_per_s:.3g}", "training patches a second"))
    became = became_of_images(summary.events)
    done = [event for event in became if isinstance(event, ImageDone)]
    if summary.does != "train":
        failed = sum(isinstance(event, ImageFailed) and event.final for event in became)
        items = {event.image for event in summary.events if isinstance(event, ItemDone)}
        tiles.append((f"{len(done) + len(items - {one.image for one in became}):,}", "images done"))
        tiles.append((f"{failed:,}", "images failed"))
    if done:
        middle = median(event.seconds for event in done)
        tiles.append((f"{middle:.3g} s", "an image (median)"))
    if summary.seconds is not None:
        tiles.append((span(summary.seconds), "from first to last event"))
    cells = "".join(f"<div><b>{escaped(a)}</b><span>{escaped(b)}</span></div>" for a, b in tiles)
    return f'<div class="tiles">{cells}</div>' if cells else ""


def _warnings(events: Sequence[AnyEvent]) -> str:
    given = [event.message for event in events if isinstance(event, WarningGiven)]
    given += [
        f"The watched folder was {event.state}. {event.detail}"
        for event in events
        if isinstance(event, WatchState) and event.state == "offline"
    ]
    different = list(dict.fromkeys(given))
    first, rest = different[:_FIRST_WARNINGS], different[_FIRST_WARNINGS:]
    return _list_of(first) + folded(f"{len(rest):,} more warnings", _list_of(rest))


def _list_of(messages: Sequence[str]) -> str:
    items = "".join(f"<li>{escaped(message)}</li>" for message in messages[:_MOST_WARNINGS])
    more = len(messages) - _MOST_WARNINGS
    rest = f"<p>and {more:,} more in events.jsonl</p>" if more > 0 else ""
    return f'<ul class="warnings">{items}</ul>{rest}' if items else ""


def _chart_of_objects(summary: RunSummary, names: Sequence[str], best: int | None) -> Chart:
    seen = summary.validations
    told = {name: [v.objects.get(name) for v in seen] for name in seen[-1].objects}
    curves: list[Curve] = []
    for name, found in told.items():
        colour = names.index(name) if name in names else 0
        pq = _points(seen, [None if one is None else one.pq for one in found])
        ap50 = _points(seen, [None if one is None else one.ap50 for one in found])
        curves.append(Curve(name=f"{name} PQ", points=pq, colour=colour, manner="strong"))
        curves.append(Curve(name=f"{name} AP50", points=ap50, colour=colour))
    return Chart(title="Objects", curves=tuple(curves), best=best, limits=(0, 1))


def _curves(summary: RunSummary) -> str:
    steps = [event for event in summary.events if isinstance(event, StepDone)]
    seen = summary.validations
    best = summary.best.step if summary.best is not None else None
    names = list(seen[-1].iou) if seen else []
    mean = Curve(
        name="mean", points=_points(seen, [v.mean_iou for v in seen]), colour=-1, manner="strong"
    )
    classes = [
        Curve(
            name=name,
            points=_points(seen, [v.iou.get(name) for v in seen]),
            colour=place,
            letter=letter,
        )
        for place, (name, letter) in enumerate(zip(names, class_letters(names), strict=True))
    ]
    charts = (
        Chart(
            title="Loss",
            curves=(
                Curve(
                    name="training, every report",
                    points=_points(steps, [event.loss for event in steps]),
                    manner="faint",
                ),
                Curve(name="training", points=_points(seen, [v.train_loss for v in seen])),
                Curve(
                    name="validation", points=_points(seen, [v.val_loss for v in seen]), colour=6
                ),
            ),
            best=best,
            limits=(0, float("inf")),
        ),
        Chart(title="IoU on validation images", curves=(mean, *classes), best=best, limits=(0, 1)),
        *([_chart_of_objects(summary, names, best)] if seen and seen[-1].objects else []),
        Chart(
            title="Learning rate",
            curves=(
                Curve(
                    name="learning rate",
                    points=_points(steps, [event.learning_rate for event in steps])
                    or _points(seen, [v.learning_rate for v in seen]),
                ),
            ),
            best=best,
            limits=(0, float("inf")),
        ),
        Chart(
            title="Speed",
            curves=(
                Curve(
                    name="training patches a second",
                    points=_points(seen, [v.images_per_s for v in seen]),
                ),
            ),
            best=best,
            limits=(0, float("inf")),
        ),
    )
    figures = "".join(figure_of(chart) for chart in charts)
    resumed = [event.step for event in summary.events if isinstance(event, RunResumed)]
    words = (
        f"<p class='soft'>Resumed at step {', '.join(map(str, resumed))}.</p>" if resumed else ""
    )
    return f'<div class="charts">{figures}</div>{words}' if figures else ""


def _points(
    events: Sequence[StepDone] | Sequence[ValidationDone], values: Sequence[float | None]
) -> tuple[Point, ...]:
    pairs = zip(events, values, strict=True)
    return tuple((float(event.step), value) for event, value in pairs if value is not None)


def _ending(summary: RunSummary) -> str:
    files = [event for event in summary.events if isinstance(event, CheckpointSaved)]
    latest = {event.role: event for event in files}
    rows: list[Sequence[Cell]] = [["state", summary.state]]
    rows += [["reason", summary.reason]] if summary.reason not in ("", summary.state) else []
    left = summary.exit
    if left is not None:
        code = left.signal or f"exit code {left.exit_code}"
        rows.append(["process", f"{code}{', out of memory' if left.out_of_memory else ''}"])
        rows += [["detail", left.detail]] if left.detail else []
    rows.append(["last event", _moment(summary.ended) if summary.ended else "none"])
    for role, event in latest.items():
        score = "" if event.score is None else f", score {event.score:.4f}"
        rows.append([f"{role} file", f"{event.file}, step {event.step:,}{score}"])
    log = ""
    if summary.state in ("failed", "lost") and summary.log_tail:
        log = f"<pre>{'<br>'.join(escaped(line) for line in summary.log_tail)}</pre>"
    return section(
        "How it ended" if summary.state != "running" else "So far",
        table(["", ""], rows, kind="facts"),
        log,
    )


def _footer() -> str:
    return f"<footer>Made by EMCFsys on {_moment(time.time())}. This page loads nothing.</footer>"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
