"""One page of a hot folder's session: what came, which masks can be trusted, what changed when."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

import numpy as np
from PIL import Image

from emcfsys_engine.colours import colours_for
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.hotfolder.groups import Group
from emcfsys_engine.hotfolder.ledger import Entry, read_ledger
from emcfsys_engine.hotfolder.review import (
    groups_of,
    masks_of,
    read_verdicts,
    recipe_settings,
    verify_journal,
)
from emcfsys_engine.hotfolder.series import (
    Measured,
    Trend,
    names_in,
    parts_of,
    read_series,
    recipe_words,
    trend_of,
)
from emcfsys_engine.images.damaged_files import quiet_libraries
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import to_8_bit
from emcfsys_engine.images.overlays import laid_over
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.project import Project
from emcfsys_engine.text import how_many, moment
from emcfsys_engine.tools.report.charts import (
    Cell,
    Chart,
    Curve,
    escaped,
    figure_of,
    folded,
    page,
    picture,
    save_page,
    section,
    table,
)
from emcfsys_engine.tools.report.pictures import smaller
from emcfsys_engine.verdicts import STATES

_MOST_IMAGES = 50_000
_MOST_ROWS = 300
_EXAMPLES = 3  # of each verdict
_SIDE_PX = 420
_LEAST_OF_GROUP = 20  # images, before a group has charts of its own
_INK, _BLUE, _RED = -1, 4, 5


def write_session(project: Project, out: Path | None = None, since: float = 0.0) -> Path:
    """Write the page of a project's hot folder, and return its file.

    `since`: images whose files are older are left out. Units: seconds since 1970.
    Raises: InputError where nothing was predicted yet, or it would replace a file that is not ours;
    RunFolderError where the page cannot be written.
    """
    output = project.folder / project.hotfolder.output
    file = out or output / ".emcfsys" / "session.html"
    save_page(file, session_page(project, since), output)
    return file


def session_page(project: Project, since: float = 0.0) -> str:
    """Return the page. Raises: InputError where nothing was predicted yet."""
    output = project.folder / project.hotfolder.output
    images = read_series(output, since=since, most=_MOST_IMAGES)
    failed = [
        entry
        for entry in read_ledger(output)
        if entry.state in ("failed", "trying") and entry.mtime_ns >= since * 1e9
    ]
    if not images and not failed:
        raise InputError(output, "holds no predictions of this session", "Start the watch first")
    found = [found for name in names_in(images) if (found := trend_of(images, name))]
    parts = [
        _header(project, images),
        _tiles(images, failed),
        section("What changed", _shifts(found)),
        section("Verdicts", _verdicts(images), _groups(groups_of(output))),
        section("Examples", *(_examples(project, output, state) for state in STATES)),
        section("Images that could not be predicted", _failed(failed)),
        section("Trends", _figures(found), _of_parts(images)),
        section("Distributions", _distributions(images)),
        section("Recipe", _recipe(output)),
        section("Journal", _journal(output)),
    ]
    return page(f"{project.name}: session – EMCFsys", "".join(parts))


def _header(project: Project, images: Sequence[Measured]) -> str:
    times = [one.time for one in images]
    form = "%Y-%m-%d %H:%M"
    span = f"{moment(min(times), form)} to {moment(max(times), form)}" if times else ""
    words = " · ".join(word for word in (f"Session of {project.hotfolder.watch}", span) if word)
    return f'<h1>{escaped(project.name)}</h1><p class="soft">{escaped(words)}</p>'


def _tiles(images: Sequence[Measured], failed: Sequence[Entry]) -> str:
    counts = Counter(one.verdict for one in images)
    tiles = [(len(images), "images with masks"), (len(failed), "could not be predicted")]
    tiles += [(counts[state], state.upper()) for state in STATES]
    tiles += [(counts[""], "not judged")] if counts[""] else []
    cells = "".join(f"<div><b>{n:,}</b><span>{escaped(word)}</span></div>" for n, word in tiles)
    return f'<div class="tiles">{cells}</div>'


def _shifts(trends: Sequence[Trend]) -> str:
    told = sorted({change for one in trends for change in one.told()})  # a recipe's once
    if not told:
        return '<p class="soft">No number became another one for a while.</p>'
    return f"<ul>{''.join(f'<li>{escaped(words)}</li>' for _, words in told)}</ul>"


def _verdicts(images: Sequence[Measured]) -> str:
    counts = Counter(one.verdict for one in images)
    rows: list[Sequence[Cell]] = [
        [state.upper() or "not judged", counts[state], counts[state] / len(images)]
        for state in (*STATES, "")
        if counts[state] or state
    ]
    return table(["verdict", "images", "share"], rows if images else [])


def _groups(groups: Sequence[Group]) -> str:
    rows: list[Sequence[Cell]] = [
        [
            group.name,
            group.state.upper(),
            int(group.numbers.get("images", 0)),
            *(group.verdicts.get(state, 0) for state in STATES),
            "; ".join(group.reasons),
        ]
        for group in groups[:_MOST_ROWS]
    ]
    heads = ["group", "verdict", "images", *(state.upper() for state in STATES), "why"]
    more = len(groups) - _MOST_ROWS
    words = f'<p class="soft">and {more:,} more groups</p>' if more > 0 else ""
    return table(heads, rows) + words


def _failed(failed: Sequence[Entry]) -> str:
    rows: list[Sequence[Cell]] = [
        [entry.path, _without_path(entry), entry.attempts] for entry in failed[:_MOST_ROWS]
    ]
    more = len(failed) - _MOST_ROWS
    words = f'<p class="soft">and {more:,} more</p>' if more > 0 else ""
    return table(["image", "why", "tries"], rows) + words


def _without_path(entry: Entry) -> str:
    """Return why an image failed; its path stands beside it anyway."""
    place, _, rest = entry.reason.partition(": ")
    return rest if rest and place.endswith(entry.path) else entry.reason


def _examples(project: Project, output: Path, state: str) -> str:
    _, found = read_verdicts(output, (state,))
    stride = max(1, len(found) // _EXAMPLES)
    shown = "".join(
        _example(project, output, one.path, masks_of(output, one)[0], "; ".join(one.reasons))
        for one in found[::stride][:_EXAMPLES]
    )
    title = f"<h3>{state.upper()}</h3>" if shown else ""
    return f'{title}<div class="pictures">{shown}</div>' if shown else ""


def _example(project: Project, output: Path, name: str, mask: Path, why: str) -> str:
    """Return an image with its mask laid over it; what cannot be read is named in its place."""
    caption = f"{name}  {why}".strip()
    try:
        micrograph = read_micrograph(
            ImageRef(path=project.folder / (project.hotfolder.watch or "") / name)
        )
        with quiet_libraries(), Image.open(mask) as opened:
            mask_HW = np.asarray(opened)
        grey = to_8_bit(micrograph.pixels)
        shown = grey if grey.ndim == 2 else grey[..., :3]
        colours = colours_for(len(project.classes))
        small = smaller(Image.fromarray(laid_over(shown, mask_HW, project.class_values, colours)))
    except (EmcfError, OSError, ValueError, IndexError, SyntaxError) as error:
        return picture(b"", "png", f"{caption} cannot be shown: {error}")
    return picture(small, "png", caption)


def _figures(trends: Sequence[Trend]) -> str:
    shown = "".join(f"<div>{trend_figure(one)}</div>" for one in trends)
    return f'<div class="charts over-time">{shown}</div>' if shown else ""


def trend_figure(trend: Trend) -> str:
    """Return a number's control chart, with its limits and where it became another one."""
    times = [one.time for one in trend.images]
    curves = [
        Curve(name=trend.name, points=tuple(zip(times, trend.values, strict=True)), colour=_INK),
        Curve(
            name="EWMA", points=tuple(zip(times, trend.ewma, strict=True)),
            colour=_BLUE, manner="strong",
        ),
    ]  # fmt: skip
    curves += [
        Curve(name=name, points=tuple(line), colour=_RED, manner="faint")
        for name, line in trend.levels()
    ]
    chart = Chart(
        title=trend.name,
        curves=tuple(curves),
        marks=tuple((times[one.place], recipe_words(one.after)) for one in trend.changes),
        x_words="",
        note=how_many(len(trend.signals), "point breaks a rule", "points break a rule"),
        x_is_time=True,
    )
    told = "".join(f"<li>{escaped(words)}</li>" for _, words in trend.told())
    return figure_of(chart) + (f"<ul>{told}</ul>" if told else "")


def _of_parts(images: Sequence[Measured]) -> str:
    """Return the charts of each group, and each recipe, that has images enough, folded."""
    shown: list[str] = []
    for words, members in list(parts_of(images).items())[:_MOST_ROWS]:
        if len(members) < _LEAST_OF_GROUP:
            continue
        trends = [one for name in names_in(members) if (one := trend_of(members, name))]
        shown.append(folded(f"{words}: {how_many(len(members), 'image')}", _figures(trends)))
    return "".join(shown)


def _distributions(images: Sequence[Measured]) -> str:
    rows: list[Sequence[Cell]] = []
    for name in names_in(images):
        values = sorted(one.numbers[name] for one in images if name in one.numbers)
        if len(values) < 2:
            continue
        cuts = quantiles(values, n=20, method="inclusive")
        rows.append([name, len(values), values[0], cuts[0], cuts[9], cuts[18], values[-1]])
    heads = ["number", "images", "lowest", "5 %", "median", "95 %", "highest"]
    return table(heads, rows, kind="numbers")


def _recipe(output: Path) -> str:
    name, settings = recipe_settings(output)
    if not name:
        return '<p class="soft">No recipe is followed.</p>'
    rows: list[Sequence[Cell]] = [["id", name]]
    rows += [[key, str(value)] for key, value in settings.items()]
    return table(["", ""], rows, kind="facts")


def _journal(output: Path) -> str:
    found = verify_journal(output)
    rows: list[Sequence[Cell]] = [
        ["lines", found.lines],
        ["head", found.head or "none"],
        ["chain", found.fault or "whole"],
    ]
    return table(["", ""], rows, kind="facts")
