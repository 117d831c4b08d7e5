"""report: one HTML page that tells a run whole, for a colleague without EMCFsys or a network."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.run.events import (
    AnyEvent,
    CheckpointSaved,
    ImageDone,
    ImageFailed,
    RunResumed,
    StepDone,
    ValidationDone,
    WarningGiven,
    WatchState,
)
from emcfsys_engine.run.folder import Run, write_whole
from emcfsys_engine.tools.report.charts import Chart, Curve, Point, figure_of
from emcfsys_engine.tools.report.report_html import (
    Cell,
    escaped,
    folded,
    number,
    page,
    section,
    table,
)
from emcfsys_engine.tools.report.report_pictures import overlays, previews
from emcfsys_engine.tools.report.report_settings import (
    environment_section,
    plan_section,
    settings_section,
)
from emcfsys_engine.tools.report.report_tables import (
    class_table,
    failed_images,
    image_table,
    source_table,
)
from emcfsys_engine.tools.report.summary import Story, duration, read_story

_FIRST_WARNINGS = 6
_MOST_WARNINGS = 200


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write the page of a run, in its folder or as `out`, and return its file.

    Raises: RunFolderError if the folder holds no run, or the page cannot be written.
    """
    file = out or run.folder / "report.html"
    content = report_page(run).encode("utf-8", "replace")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise RunFolderError(file, what, "Name another file with --out") from None
    return file


def report_page(run: Run) -> str:
    """Return the page of a run of any kind, also of one that still goes on."""
    story = read_story(run)
    events = story.events
    parts = [
        _header(story),
        _tiles(story),
        section("Warnings", _warnings(events)),
        section("Curves", _curves(story)),
        section("Classes", class_table(story), source_table(story)),
        section("Previews", previews(run, events, story.best.step if story.best else None)),
        section("Images", failed_images(events), image_table(events), overlays(events)),
        _ending(story),
        settings_section(story.record),
        plan_section(story.plan),
        environment_section(story),
        _footer(),
    ]
    return page(f"{story.title} – EMCFsys", "".join(parts))


def _header(story: Story) -> str:
    started = _moment(story.began or story.record.created)
    does = {"train": "Training", "predict": "Prediction", "watch": "Watch"}[story.does]
    words = [f"{does} {story.run.id}", f"started {started}", story.device]
    reason = f" {escaped(story.reason)}" if story.reason not in ("", story.state) else ""
    return (
        f"<h1>{escaped(story.title)}</h1>"
        f'<p class="soft">{escaped(" · ".join(word for word in words if word))}</p>'
        f'<p><span class="badge {story.state}">{story.state}</span>{reason}</p>'
    )


def _tiles(story: Story) -> str:
    tiles: list[tuple[str, str]] = []
    best = story.best
    if best is not None:
        word = story.record.project.training.best_by if story.record.project else "score"
        word = word.replace("_", " ").replace("iou", "IoU")
        tiles.append((number(best.score), f"best {word}, step {best.step:,}"))
    if story.does == "train":
        total = f" of {story.total_steps:,}" if story.total_steps else ""
        tiles.append((f"{story.step:,}", f"steps{total}"))
    steps = [event for event in story.events if isinstance(event, StepDone)]
    if steps:
        tiles.append((f"{steps[-1].loss:.4g}", "last training loss"))
    validations = story.validations
    if validations:
        tiles.append((f"{validations[-1].images_per_s:.3g}", "training patches a second"))
    done = [event for event in story.events if isinstance(event, ImageDone)]
    if story.does != "train":
        failed = sum(isinstance(event, ImageFailed) and event.final for event in story.events)
        tiles.append((f"{len(done):,}", "images done"))
        tiles.append((f"{failed:,}", "images failed"))
    if done:
        middle = sorted(event.seconds for event in done)[len(done) // 2]
        tiles.append((f"{middle:.3g} s", "an image (median)"))
    if story.seconds is not None:
        tiles.append((duration(story.seconds), "from first to last event"))
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


def _curves(story: Story) -> str:
    steps = [event for event in story.events if isinstance(event, StepDone)]
    seen = story.validations
    best = story.best.step if story.best is not None else None
    names = list(seen[-1].iou) if seen else []
    mean = Curve(
        name="mean", points=_points(seen, [v.mean_iou for v in seen]), colour=6, manner="strong"
    )
    classes = [
        Curve(name=name, points=_points(seen, [v.iou.get(name) for v in seen]), colour=place)
        for place, name in enumerate(names)
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
                    name="validation", points=_points(seen, [v.val_loss for v in seen]), colour=1
                ),
            ),
            best=best,
            limits=(0, float("inf")),
        ),
        Chart(title="IoU on validation images", curves=(mean, *classes), best=best, limits=(0, 1)),
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
    resumed = [event.step for event in story.events if isinstance(event, RunResumed)]
    words = (
        f"<p class='soft'>Resumed at step {', '.join(map(str, resumed))}.</p>" if resumed else ""
    )
    return f'<div class="charts">{figures}</div>{words}' if figures else ""


def _points(
    events: Sequence[StepDone] | Sequence[ValidationDone], values: Sequence[float | None]
) -> tuple[Point, ...]:
    pairs = zip(events, values, strict=True)
    return tuple((float(event.step), value) for event, value in pairs if value is not None)


def _ending(story: Story) -> str:
    files = [event for event in story.events if isinstance(event, CheckpointSaved)]
    latest = {event.role: event for event in files}
    rows: list[Sequence[Cell]] = [["state", story.state]]
    rows += [["reason", story.reason]] if story.reason not in ("", story.state) else []
    left = story.exit
    if left is not None:
        code = left.signal or f"exit code {left.exit_code}"
        rows.append(["process", f"{code}{', out of memory' if left.out_of_memory else ''}"])
        rows += [["detail", left.detail]] if left.detail else []
    rows.append(["last event", _moment(story.ended) if story.ended else "none"])
    for role, event in latest.items():
        score = "" if event.score is None else f", score {event.score:.4f}"
        rows.append([f"{role} file", f"{event.file}, step {event.step:,}{score}"])
    log = ""
    if story.state in ("failed", "lost") and story.log_tail:
        log = f"<pre>{'<br>'.join(escaped(line) for line in story.log_tail)}</pre>"
    return section(
        "How it ended" if story.state != "running" else "So far",
        table(["", ""], rows, kind="facts"),
        log,
    )


def _footer() -> str:
    return f"<footer>Made by EMCFsys on {_moment(time.time())}. This page loads nothing.</footer>"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
