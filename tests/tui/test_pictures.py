"""Every tab looks as it did: screens compared with pictures kept beside this file.

EMCFSYS_RENEW_PICTURES=1 pytest tests/tui/test_pictures.py writes them anew; look at them before you
commit them. Under another Textual than theirs only the words are compared.
"""

import gzip
import html
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import textual
from PIL import Image
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_engine.colours import contrast
from emcfsys_engine.jobs.machine import Machine
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageDone, ImageFailed, RunStarted, WatchState
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest, WatchRequest
from emcfsys_tui.engine.form import Forecaster
from emcfsys_tui.settings import Settings
from emcfsys_tui.view_models import CheckState, Forecast, PlanRow
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.hotfolder_pane import HotFolderPane
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.picture_view import PictureView
from tests.thorough import IS_THOROUGH
from tests.tui.conftest import made_run, opened, say, until

_KEPT = Path(__file__).parent / "pictures"
_SIZES = {"60x16": (60, 16), "80x24": (80, 24), "100x30": (100, 30), "160x48": (160, 48)}
_THEMES = (
    "emcfsys-dark",
    "emcfsys-light",
    "colour-blind-dark",
    "colour-blind-light",
    "ansi-dark",  # the terminal's own sixteen colours
)
_TABS = {
    "data": ("1", "Nothing"),
    "train": ("2", "about 22 min"),
    "runs": ("3", "mitochondrion"),
    "hotfolder": ("4", "grid1_0001"),
    "jobs": ("5", "run-0002"),
    "models": ("6", "No"),
}
_ALONE = {"data": "cell_0000", "train": "standard", "runs": "0.750"}  # where one pane is shown
_WITH_PICTURE = {"data": DataPane, "hotfolder": HotFolderPane}
_FORECAST = Forecast(  # of another machine than this one
    rows=(
        PlanRow(name="data", value="10 training, 3 validation"),
        PlanRow(name="length", value="2,000 steps", why="preset standard draws 16000 patches"),
        PlanRow(name="time", value="about 22 min", why="by the steps of run-0001"),
        PlanRow(name="network", value="unet/tf_efficientnet_lite0", why="weights: imagenet"),
    ),
    num_warnings=2,
)
_AT = 1_700_000_000.0  # when everything happened


@pytest.fixture
def busy(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a finished run, a queued one, and a hot folder through which images came."""
    monkeypatch.setattr(Machine, "gpus", lambda self: [])
    monkeypatch.setattr(Forecaster, "read", lambda self, overrides: _FORECAST)
    made_run(demo)
    project = load_project(demo)
    waiting = new_run(demo / "runs", TrainRequest(), project=project)
    with Queue.open() as queue:
        queue.add(waiting.folder, project_name="demo", gpus=0)
    for place in ("incoming", "predictions"):
        (demo / place).mkdir()
    mask = Image.new("L", (384, 384))
    mask.paste(1, (60, 60, 200, 300))
    mask.paste(2, (100, 100, 160, 160))
    for number in (1, 2):
        source = demo / "images" / "val" / "cell_1000.png"
        shutil.copy(source, demo / "incoming" / f"grid1_000{number}.png")
        mask.save(demo / "predictions" / f"grid1_000{number}.png")
    request = WatchRequest(model="best", watch="incoming", output="predictions")
    watch = new_run(demo / "runs", request, project=project)
    say(watch, RunStarted(run=watch.id, does="watch", time=_AT), WatchState(state="watching"))
    for number in (1, 2):
        name = f"grid1_000{number}.png"
        shares = {"background": 0.8, "membrane": 0.15, "mitochondrion": 0.05}
        done = ImageDone(
            image=name, mask=name, seconds=0.2, shares=shares, confidence=0.97, lag_s=0.3, time=_AT
        )
        say(watch, done)
    say(watch, ImageFailed(image="grid1_0003.tif", reason="is half a file", time=_AT))
    return demo


async def test_every_tab_looks_as_it_did(busy: Path) -> None:
    assert not await _looked_at(busy, "80x24", _THEMES[:1])


@pytest.mark.long
@pytest.mark.parametrize("size", _SIZES)
async def test_every_tab_looks_as_it_did_at_every_size_and_in_every_theme(
    busy: Path, size: str
) -> None:
    # At other sizes than one, a theme would change nothing but the colours.
    themes = _THEMES if IS_THOROUGH or size == "80x24" else _THEMES[:1]
    assert not await _looked_at(busy, size, themes)


async def _looked_at(folder: Path, size: str, themes: Sequence[str]) -> str:
    """Return what is wrong with the pictures of all tabs at a size."""
    faults: list[str] = []
    settings = Settings(bell=False, theme=themes[0])
    async with opened(folder, size=_SIZES[size], settings=settings) as pilot:
        for tab, (key, word) in _TABS.items():
            await pilot.press(key)
            shown = _ALONE.get(tab, word) if size == "60x16" else word
            for number, theme in enumerate(themes):
                pilot.app.theme = theme
                now = await _settled(pilot, tab, shown, looks=1 if number else 3)
                faults += _compared(f"{tab}-{size}-{theme.removeprefix('emcfsys-')}", now)
                if not theme.startswith("ansi"):  # whose colours the terminal chooses
                    faults += _weak(f"{tab}-{size}-{theme}", now)
            pilot.app.theme = themes[0]
    return "\n".join(faults)


@pytest.mark.long
async def test_words_stand_apart_from_what_is_behind_them_in_themes_of_others(busy: Path) -> None:
    faults: list[str] = []
    async with opened(busy, size=_SIZES["160x48"], settings=Settings(bell=False)) as pilot:
        for tab, (key, word) in _TABS.items():
            await pilot.press(key)
            for theme in ("nord", "textual-light"):
                pilot.app.theme = theme
                faults += _weak(f"{tab} in {theme}", await _settled(pilot, tab, word, looks=1))
    assert not faults, "\n".join(faults)


def _weak(name: str, svg: str) -> list[str]:
    """Return the words of a picture that do not stand apart from what is behind them (WCAG 2.1)."""
    inks = dict(re.findall(r"\.(terminal-r\d+) { fill: (#\w{6})", svg))
    rects = [
        (float(x), float(y), float(x) + float(width), float(y) + float(height), fill)
        for fill, x, y, width, height in re.findall(
            r'<rect fill="(#\w{6})" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"',
            svg,
        )
    ]
    weak: list[str] = []
    for ink, x, y, text in re.findall(
        r'<text class="(terminal-r\d+)" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', svg
    ):
        words = html.unescape(text).replace("\xa0", " ").strip()
        at = float(x) + 1, float(y) - 10
        papers = [r[4] for r in rects if r[0] <= at[0] < r[2] and r[1] <= at[1] < r[3]]
        if not re.search(r"\w", words):
            continue
        assert papers, f"nothing is behind {words!r}"
        apart = contrast(_rgb(inks[ink]), _rgb(papers[-1]))
        if apart < 4.5:
            weak.append(f"{name}: {words!r} has contrast {apart:.2f}: {inks[ink]} on {papers[-1]}")
    return weak


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


async def _settled(pilot: Pilot[None], tab: str, word: str, looks: int) -> str:
    """Return the picture of a tab once two looks at it are the same."""
    before: list[list[Strip]] = [[]]

    def is_still() -> bool:
        for name in ("#train-command", "#job-log"):  # paths of this machine
            for widget in pilot.app.screen.query(name).results(Widget):
                widget.visible = False
                if name == "#train-command":
                    widget.styles.height = 1  # however long they are
        if tab == "data":
            pane = pilot.app.screen.query_one(DataPane)
            if pane.check_state.running or not all(row.labels for row in pane.images.rows):
                return False
            pane.check_state = CheckState(summary="0 errors, 0 warnings in 0.3 s")
        if tab in _WITH_PICTURE:
            view = pilot.app.screen.query_one(_WITH_PICTURE[tab]).query_one(PictureView)
            if view.size.area and not _fills(view):
                return False
        if tab == "runs":
            pilot.app.screen.query_one("RunsPane #runs", Rows).go_to("run-0001")
        now = pilot.app.screen._compositor.render_strips()
        same, before[0] = now == before[0], now
        return same and word in "\n".join(strip.text for strip in now)

    for _ in range(looks):  # a decoder may need a moment
        await pilot.pause(0.5 if looks > 1 else 0.1)
        await until(pilot, is_still)
    return _plain(pilot.app.export_screenshot())


def _fills(view: PictureView) -> bool:
    """Tell whether a picture is there, of the size that its place has now."""
    picture, place = view.picture, view.size
    if picture is None or not picture.ids:
        return False
    return picture.width >= place.width - 1 or picture.height >= 2 * place.height - 2


def _plain(svg: str) -> str:
    """Return the picture without what differs from start to start: ids and times."""
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    svg = re.sub(r"\d\d:\d\d:\d\d", "00:00:00", svg)
    return re.sub(r"\d\d&#160;[A-Z][a-z]{2}&#160;\d\d:\d\d", "01&#160;Jan&#160;00:00", svg)


def _words(svg: str) -> str:
    lines = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return html.unescape("\n".join(lines)).replace("\xa0", " ")


def _compared(name: str, now: str) -> list[str]:
    """Return what is wrong with a picture; written anew when asked to."""
    file = _KEPT / f"{name}.svg.gz"
    version_file = _KEPT / "textual-version.txt"
    if os.environ.get("EMCFSYS_RENEW_PICTURES"):
        _KEPT.mkdir(exist_ok=True)
        file.write_bytes(gzip.compress(now.encode(), mtime=0))
        version_file.write_text(textual.__version__ + "\n")
        return []
    kept = gzip.decompress(file.read_bytes()).decode()
    is_same_textual = version_file.read_text().strip() == textual.__version__
    if now == kept or (not is_same_textual and _words(now) == _words(kept)):
        return []
    there, here = _words(kept).split("\n"), _words(now).split("\n")
    changed = [f"  - {a}\n  + {b}" for a, b in zip(there, here, strict=False) if a != b][:8]
    return [f"{name} looks different:", *(changed or ["  its colours or places changed"])]
