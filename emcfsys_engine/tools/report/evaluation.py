"""One page of an evaluation: true IoU beside the expected one, image by image."""

from collections.abc import Sequence
from pathlib import Path

from emcfsys_engine.promises import ImageScore, Promise, words_of
from emcfsys_engine.tools.report.charts import (
    Cell,
    Chart,
    Curve,
    escaped,
    figure_of,
    number,
    page,
    picture,
    save_page,
    section,
    table,
)

_INK, _BLUE, _RED = -1, 4, 5
_MOST_ROWS = 2_000


def write_evaluation(
    file: Path,
    title: str,
    told: str,
    scores: Sequence[ImageScore],
    promise: Promise | None,
    worst: Sequence[tuple[ImageScore, bytes]] = (),
) -> None:
    """Write the page; `told`: the table that stands in the terminal, too.

    `worst`: images, each drawn as PNG beside its labels and its prediction.

    Raises: InputError for a file that is not ours; RunFolderError where it cannot be written.
    """
    parts = [
        f"<h1>{escaped(title)}</h1>",
        section("Scores", f"<pre>{_lines(told)}</pre>"),
        section(
            "Expected and true IoU",
            f"<p>{escaped(words_of(promise))}</p>",
            figure_of(_chart(scores)),
        ),
        section("Worst images", *(_worst(one, drawn) for one, drawn in worst)),
        section("Images", _table(scores)),
    ]
    save_page(file, page(f"{title} – EMCFsys", "".join(parts)), file.absolute().parent)


def _lines(text: str) -> str:
    return "\n".join(escaped(line) for line in text.splitlines())


def _worst(score: ImageScore, drawn: bytes) -> str:
    told = "" if score.expected is None else f", expected {number(score.expected)}"
    what = "image, labels, prediction, differences in red"
    return picture(drawn, "png", f"{score.image}: IoU {number(score.iou)}{told} ({what})")


def _chart(scores: Sequence[ImageScore]) -> Chart:
    known = [one for one in scores if one.expected is not None]
    known.sort(key=lambda one: one.expected or 0.0)

    def points(values: Sequence[float | None]) -> tuple[tuple[float, float], ...]:
        return tuple((float(n), value) for n, value in enumerate(values, 1) if value is not None)

    true, told = points([one.iou for one in known]), points([one.expected for one in known])
    low, high = points([one.low for one in known]), points([one.high for one in known])
    return Chart(
        title="mean IoU of each image, from the least expected on",
        curves=(
            Curve(name="true", points=true, colour=_INK),
            Curve(name="expected", points=told, colour=_BLUE, manner="strong"),
            Curve(name="low end of what is promised", points=low, colour=_RED, manner="faint"),
            Curve(name="high end", points=high, colour=_RED, manner="faint"),
        ),
        limits=(0.0, 1.0),
        x_words="image",
        note=" nine of ten true ones are to lie between the two ends",
    )


def _table(scores: Sequence[ImageScore]) -> str:
    holds = {True: "yes", False: "no", None: ""}
    rows: list[Sequence[Cell]] = [
        [
            one.image,
            number(one.iou),
            number(one.expected),
            "" if one.low is None else f"{number(one.low)} to {number(one.high)}",
            holds[one.holds],
            one.reason,
        ]
        for one in sorted(scores, key=lambda one: -one.gap)[:_MOST_ROWS]
    ]
    return table(["image", "true IoU", "expected", "between", "lies there", "why it is low"], rows)
