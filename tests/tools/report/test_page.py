"""A report tells every kind of run, loads nothing, and lets nothing from outside become markup."""

import fcntl
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emcfsys_engine.colours import class_letters, colours_for, readable
from emcfsys_engine.commands.runs import report
from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.project import Naming, Project, Source
from emcfsys_engine.run.events import (
    CheckpointSaved,
    Event,
    EventWriter,
    ImageDone,
    ImageFailed,
    ObjectScores,
    PreviewSaved,
    RunFailed,
    RunFinished,
    RunStarted,
    StepDone,
    ValidationDone,
    WarningGiven,
    WatchState,
)
from emcfsys_engine.run.folder import ExitRecord, Run
from emcfsys_engine.run.folder import new_run as make_folder
from emcfsys_engine.run.records import PredictRequest, Request, TrainRequest, WatchRequest
from emcfsys_engine.tools.report.charts import Chart, Curve, escaped, figure_of, table, thinned
from emcfsys_engine.tools.report.page import report_page, write_report

EVIL = "<script>alert('x')</script>\"'><img src=http://x.y onerror=a()>\x1b[31m"
_VOID = {"meta", "img", "br", "line", "circle", "polyline"}


class Checker(HTMLParser):
    """Follows a page's tags; fails on a script, a handler, or anything loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "xlink:href"):
                assert (value or "").startswith("data:image/")
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> tuple[str, list[str]]:
    """Return a page's text and its tags, after a look at its safety."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    assert "\x1b" not in page
    assert "url(" not in page
    assert "@import" not in page
    return " ".join(checker.text), checker.tags


def project(name: str = "alloy") -> Project:
    return Project(
        file_name="/p/project.toml",
        project=Naming(name=name),
        classes={"matrix": 0, "large": 1},
        data=(Source(images="images", masks="masks"),),
    )


def a_run(place: Path, request: Request, *events: Event, name: str = "alloy") -> Run:
    run = make_folder(place / "runs", request, project=project(name))
    with EventWriter(run.events_file) as writer:
        for event in events:
            writer.write(event)
    return run


def validation(step: int, iou: float, *, best: bool = False, name: str = "large") -> ValidationDone:
    scores = {"matrix": 0.9, name: iou, "absent": None}
    return ValidationDone(
        step=step,
        train_loss=1 / step,
        val_loss=2 / step,
        mean_iou=iou,
        mean_foreground_iou=iou,
        accuracy=0.9,
        iou=scores,
        f1=scores,
        learning_rate=1e-3,
        images_per_s=12.5,
        seconds_left=None,
        score=iou,
        is_best=best,
    )


def training(place: Path, *more: Event, name: str = "alloy") -> Run:
    steps = [StepDone(step=n, loss=1 / n, learning_rate=1e-3, seconds=0.1) for n in range(1, 31)]
    return a_run(
        place,
        TrainRequest(),
        RunStarted(run="r", does="train", total_steps=30, device="cpu"),
        *steps,
        validation(10, 0.5, best=True),
        validation(20, 0.8125, best=True),
        validation(30, 0.7),
        CheckpointSaved(step=20, role="best", file="best.safetensors", score=0.8125),
        *more,
        name=name,
    )


def test_a_finished_training_shows_curves_best_classes_plan_and_ending(tmp_path: Path) -> None:
    run = training(tmp_path, RunFinished(reason="steps", step=30))
    plan = {"batch": 8, "patch_px": 256, "reasons": {"batch": "suits a cpu"}, "val_images": ["v1"]}
    run.plan_file.write_text(json.dumps(plan))
    text, tags = checked(report_page(run))
    for words in ("Loss", "IoU on validation images", "Learning rate", "Speed", "0.812", "done"):
        assert words in text
    assert "suits a cpu" in text
    assert "best.safetensors, step 20" in text
    assert text.count(" best ") >= 4
    assert tags.count("figure") == 4
    assert "torch" in text  # among the versions


def test_objects_have_their_scores_and_curves(tmp_path: Path) -> None:
    found = ObjectScores(
        ap50=0.625,
        ap50_95=0.4,
        pq=0.6,
        sq=0.75,
        rq=0.8,
        splits=3,
        merges=1,
        num_found=1234,
        num_true=1300,
        size_error=2.5,
        size_unit="nm",
    )
    seen = [
        msgspec.structs.replace(validation(n, 0.99, best=True), objects={"large": found})
        for n in (10, 20)
    ]
    page = report_page(training(tmp_path, *seen))
    for word in ("objects of", "0.625", "1,234", "2.5 nm", "large AP50", "Objects"):
        assert word in page


def test_the_best_line_stands_where_the_best_step_is(tmp_path: Path) -> None:
    page = report_page(training(tmp_path))
    lines = re.findall(r'<line class="best" x1="([\d.]+)"', page)
    assert len(set(lines[:1])) == 1
    middle = 58 + (20 - 1) / (30 - 1) * (620 - 58 - 14)
    assert float(lines[0]) == pytest.approx(middle, abs=0.1)


def test_a_failed_run_shows_why_and_the_end_of_its_log(tmp_path: Path) -> None:
    run = training(tmp_path, RunFailed(reason="the loss became nan"))
    run.log_file.write_text("first\n" * 500 + f"last {EVIL}\n")
    exited = ExitRecord(signal="SIGKILL", out_of_memory=True)
    run.exit_file.write_bytes(msgspec.json.encode(exited))
    text, _ = checked(report_page(run))
    assert "the loss became nan" in text
    assert "SIGKILL, out of memory" in text
    assert "last <script>" in text
    assert text.count("first") < 50


def test_a_run_that_has_said_nothing_yet_has_a_page(tmp_path: Path) -> None:
    run = make_folder(tmp_path / "runs", TrainRequest(), project=project())
    text, tags = checked(report_page(run))
    assert "new" in text
    assert "svg" not in tags


def test_a_running_run_is_told_so_far(tmp_path: Path) -> None:
    run = training(tmp_path)
    with run.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text, _ = checked(report_page(run))
    assert "running" in text
    assert "So far" in text
    assert "How it ended" not in text


def test_a_prediction_shows_shares_failures_and_overlays(tmp_path: Path) -> None:
    mask = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.overlay.png")
    request = PredictRequest(model="/m/best.safetensors", inputs=("/i",), out=str(tmp_path))
    shares = {"matrix": 0.75, "large": 0.25}
    run = a_run(
        tmp_path,
        request,
        RunStarted(run="r", does="predict", num_images=2),
        ImageDone(image="/i/a.tif", mask=str(mask), seconds=0.5, shares=shares, confidence=0.97),
        ImageFailed(image="/i/b.tif", reason="is truncated"),
        RunFinished(reason="done", done=1, failed=1),
    )
    text, tags = checked(report_page(run))
    for words in ("/i/b.tif", "is truncated", "a.overlay.png", "0.25", "images failed"):
        assert words in text
    assert tags.count("img") == 1


def test_an_image_that_failed_first_and_was_done_when_tried_again_counts_as_done_alone(
    tmp_path: Path,
) -> None:
    request = PredictRequest(model="/m/best.safetensors", inputs=("/i",), out=str(tmp_path))
    mask = str(tmp_path / "b.png")
    run = a_run(
        tmp_path,
        request,
        RunStarted(run="r", does="predict", num_images=1),
        ImageFailed(image="/i/b.tif", reason="is truncated"),
        RunFinished(reason="done", done=0, failed=1),
        RunStarted(run="r", does="predict", num_images=1),
        ImageDone(image="/i/b.tif", mask=mask, seconds=0.5, shares={"large": 1.0}),
        RunFinished(reason="done", done=1, failed=0),
    )
    text, _ = checked(report_page(run))
    assert "is truncated" not in text
    assert re.search(r"\b1\s*images done\s+0\s*images failed", text)


def test_a_watch_shows_lag_and_that_its_folder_was_away(tmp_path: Path) -> None:
    run = a_run(
        tmp_path,
        WatchRequest(model="/m", watch="/w", output="/o"),
        RunStarted(run="r", does="watch"),
        WatchState(state="offline", detail="/w is gone"),
        ImageDone(image="/w/a.tif", mask="/o/a.png", seconds=0.5, lag_s=3.25, unlike="darker"),
    )
    text, _ = checked(report_page(run))
    assert "/w is gone" in text
    assert "3.25" in text
    assert "darker" in text


def test_a_watch_with_limits_shows_how_many_failed_and_why(tmp_path: Path) -> None:
    common = {"mask": "/o/a.png", "seconds": 0.5}
    run = a_run(
        tmp_path,
        WatchRequest(model="/m", watch="/w", output="/o"),
        RunStarted(run="r", does="watch"),
        ImageDone(**common, image="/w/a.tif", verdict="pass"),
        ImageDone(
            **common,
            image="/w/b.tif",
            verdict="fail",
            verdict_reasons=("confidence 0.5 is below 0.6",),
        ),
    )
    text, _ = checked(report_page(run))
    assert "verdict when predicted, of 2" in text
    assert "confidence 0.5 is below 0.6" in text


def test_previews_stand_in_the_page_best_last_middle_and_first_before_others(
    tmp_path: Path,
) -> None:
    said = [
        PreviewSaved(step=step, image="a", file=f"previews/step-{step:02}.png")
        for step in range(10, 24)
    ]
    run = training(tmp_path, *said)
    run.previews_folder.mkdir()
    for event in said:
        Image.new("L", (4, 4)).save(run.folder / event.file)
    text, tags = checked(report_page(run))
    assert tags.count("img") == 12
    assert "and 2 more" in text
    steps = [int(word) for word in re.findall(r"a, step (\d+)", text)]
    assert steps == [20, 23, 17, 10, 22, 21, 19, 18, 16, 15, 14, 13]


def test_a_damaged_preview_is_named_in_its_place(tmp_path: Path) -> None:
    run = training(tmp_path)
    run.previews_folder.mkdir()
    (run.previews_folder / "torn.png").write_bytes(b"\x89PNG")
    (run.previews_folder / ".step.tmp").write_bytes(b"x")
    text, _ = checked(report_page(run))
    assert "torn.png cannot be shown" in text


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    run = training(
        tmp_path,
        validation(31, 0.9, best=True, name=EVIL),
        WarningGiven(message=EVIL),
        RunFailed(reason=EVIL),
        name=EVIL,
    )
    run.plan_file.write_text(
        json.dumps({EVIL: EVIL, "reasons": {EVIL: EVIL}, "val_images": [EVIL]})
    )
    run.previews_folder.mkdir()
    Image.new("L", (4, 4)).save(run.previews_folder / "<b onload=x>&.png")
    text, _ = checked(report_page(run))
    assert "<script>alert" in text
    assert r"\x1b[31m" in text


@given(words=st.text())
def test_any_text_comes_back_as_it_was_or_visible(words: str) -> None:
    checker = Checker()
    checker.feed(table(["", ""], [[words, 1]]))
    assert "".join(checker.text) in (words + "1", _visible(words) + "1")


def _visible(words: str) -> str:
    checker = Checker()
    checker.feed(f"<p>{escaped(words)}</p>")
    return "".join(checker.text)


@given(
    ys=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60),
    best=st.one_of(st.none(), st.integers(-5, 70)),
)
def test_any_curve_is_drawn_inside_its_frame(ys: list[float], best: int | None) -> None:
    curve = Curve(name="a", points=tuple((float(x), y) for x, y in enumerate(ys)))
    figure = figure_of(Chart(title="t", curves=(curve,), best=best))
    checked(figure)
    for places in re.findall(r'points="([^"]+)"', figure):
        for place in places.split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= 620
            assert 0 <= y <= 300


@given(ys=st.lists(st.floats(-10, 10), min_size=1, max_size=500), most=st.integers(10, 100))
def test_thinning_keeps_the_extremes_and_the_order(ys: list[float], most: int) -> None:
    points = [(float(x), y) for x, y in enumerate(ys)]
    kept = thinned(points, most)
    assert len(kept) <= most + 2
    assert kept == sorted(kept)
    assert {min(ys), max(ys)} <= {y for _, y in kept}


def test_a_chart_without_points_is_left_out() -> None:
    assert figure_of(Chart(title="t", curves=(Curve(name="a", points=()),))) == ""


def test_the_command_writes_the_page_and_says_where(tmp_path: Path) -> None:
    run = training(tmp_path)
    result = CliRunner().invoke(report, [str(run.folder), "--json"])
    assert json.loads(result.stdout) == {
        "run": run.id,
        "page": str(run.folder / "report.html"),
    }
    first = (run.folder / "report.html").read_text("utf-8")
    checked(first)
    other = CliRunner().invoke(report, [str(run.folder), "--out", str(tmp_path / "x/r.html")])
    assert other.stdout.strip() == str(tmp_path / "x/r.html")
    assert isinstance(CliRunner().invoke(report, [str(tmp_path)]).exception, RunFolderError)


def test_a_page_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    run = training(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report(run, tmp_path / "file" / "r.html")


def test_classes_have_the_colours_letters_and_order_of_the_interface(tmp_path: Path) -> None:
    shown = report_page(training(tmp_path))
    told = [("0", "m", "matrix"), ("1", "l", "large"), ("2", "a", "absent")]
    assert [one[1] for one in told] == list(class_letters([one[2] for one in told]))
    named = re.findall(r'<b class="c(\d)">■(\w)</b> (\w+)', shown)
    assert named == [*told[:2], *told]  # the legend of the curves that are, then the table
    for number, letter, _ in told[:2]:  # and at the end of its curve
        assert re.search(rf'<text class="c{number}" [^>]*>{letter}</text>', shown)
    for number, colour in enumerate(colours_for(3)):
        on_white = "#{:02x}{:02x}{:02x}".format(*readable(colour, (255, 255, 255)))
        assert f"b.c{number}{{color:{on_white}}}" in shown
