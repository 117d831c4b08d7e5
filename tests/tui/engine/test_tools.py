"""What the engine can beside the tabs: two keys away, with a form, and the command that does it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from textual.screen import Screen

from emcfsys_engine.errors import ProjectError
from emcfsys_engine.project import load_project
from emcfsys_engine.tools.report import sizes
from emcfsys_tui.engine.tools import TOOLS, Tool, size_charts, size_maps
from emcfsys_tui.messages import TextFound
from emcfsys_tui.screens.dialogs import AskScreen, ConfirmScreen, TextScreen
from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.screens.tools import ToolScreen, ToolsScreen
from emcfsys_tui.view_models import Notice, SizeCurve
from emcfsys_tui.widgets.size_chart import SizeChartView, SizeMapView, half_size
from tests.tui.conftest import opened, screen_text, until


def _tool(key: str) -> Tool:
    return next(tool for tool in TOOLS if tool.key == key)


def _values(tool: Tool, folder: Path, **more: str) -> Mapping[str, str]:
    return {field.key: field.value for field in tool.fields(folder)} | more


def test_every_tool_has_a_key_of_its_own() -> None:
    assert len({tool.key for tool in TOOLS}) == len(TOOLS)


def test_the_switches_of_a_prediction_become_the_engines_own(demo: Path) -> None:
    tool = _tool("p")
    chosen = {"model": "m.safetensors", "images": "scans", "out": "masks", "flips": "yes"}
    more = {"more models": "a, b", "ranking": "yes", "after job": "7"}
    words = tool.words(demo, {**_values(tool, demo), **chosen, **more})
    assert words == [
        *("submit", "predict", "m.safetensors", "scans", "--out", "masks"),
        *("--with", "a", "--with", "b", "--tta", "--rank-uncertain", "--after", "7"),
    ]


def test_a_class_is_added_and_renamed_and_its_labels_mean_it_still(demo: Path) -> None:
    tool = _tool("c")
    tool.work(demo, {"class": "", "new name": "vesicle", "value": ""}, [])
    assert load_project(demo).classes["vesicle"] == 3
    tool.work(demo, {"class": "membrane", "new name": "bilayer", "value": ""}, [])
    project = load_project(demo)
    assert list(project.classes) == ["background", "bilayer", "mitochondrion", "vesicle"]
    assert all(source.labels["membrane"] == "bilayer" for source in project.data)


def test_a_class_whose_objects_are_told_apart_stays_one_under_another_name_or_value(
    demo: Path,
) -> None:
    file = demo / "project.toml"
    given = "mitochondrion = { value = 2, instances = true }  # touching"
    file.write_text(file.read_text().replace("mitochondrion = 2", f"# ours\n{given}"))
    tool = next(tool for tool in TOOLS if tool.key == "c")
    tool.work(demo, {"class": "mitochondrion", "new name": "", "value": "7"}, [])
    tool.work(demo, {"class": "mitochondrion", "new name": "mito", "value": ""}, [])
    tool.work(demo, {"class": "", "new name": "vesicle", "value": ""}, [])
    text = file.read_text()
    assert "# ours\nmito = { value = 7, instances = true }  # touching" in text
    project = load_project(demo)
    assert project.classes == {"background": 0, "membrane": 1, "mito": 7, "vesicle": 8}
    assert [*project.instances] == ["mito"]


@pytest.mark.parametrize(
    ("given", "is_changed"),
    [
        ("classes = { background = 0, membrane = 1, mitochondrion = 2 }\n", True),
        ("classes.background = 0\nclasses.membrane = 1\nclasses.mitochondrion = 2\n", False),
    ],
)
def test_a_project_written_in_another_way_is_changed_soundly_or_left_as_it_is(
    demo: Path, given: str, is_changed: bool
) -> None:
    file = demo / "project.toml"
    text = file.read_text()
    begin, end = text.index("[classes]"), text.index("[[data]]")
    file.write_text(given + text[:begin] + text[end:])
    before = file.read_text()
    tool = next(tool for tool in TOOLS if tool.key == "c")
    values = {"class": "membrane", "new name": "bilayer", "value": ""}
    if is_changed:
        tool.work(demo, values, [])
        wanted = {"background": 0, "bilayer": 1, "mitochondrion": 2}
        assert load_project(demo).classes == wanted
        return
    with pytest.raises(ProjectError, match="change it in an editor"):
        tool.work(demo, values, [])
    assert file.read_text() == before


async def test_a_measurement_is_seen_as_distributions_of_the_sizes_that_the_report_has(
    demo: Path, tmp_path: Path
) -> None:
    out, masks = tmp_path / "numbers", tmp_path / "masks"
    masks.mkdir()
    mask = Image.new("L", (384, 384))
    for place in range(9):
        left, side = 40 * place + 4, 6 + 3 * place
        mask.paste(1, (left, 50, left + side, 50 + side))
    mask.save(masks / "cell_0000.png")
    tool = _tool("m")
    images = str(demo / "images" / "train")
    values = _values(tool, demo, masks=str(masks), images=images, out=str(out))
    found = tool.work(demo, values, tool.words(demo, values))
    assert isinstance(found, TextFound)
    assert [chart.title.partition(": ")[2] for chart in found.charts[:2]] == [
        "cumulative distribution",
        "density",
    ]
    for mine, other in zip(found.charts, sizes.size_charts(out), strict=True):
        assert [one.points for one in mine.curves] == [one.points for one in other.curves]
    async with opened(demo, "1", size=(100, 40)) as pilot:
        pilot.app.screen.post_message(found)
        await until(pilot, lambda: "half is below" in screen_text(pilot))
        words = screen_text(pilot)
        assert "equivalent diameter (nm)" in words and "n by number" in words
        assert "v by volume" in words
        assert "% up to this size" in words and "100 ┤" in words and "50 ┤" in words
        view = pilot.app.screen.query_one(SizeChartView)
        canvas = [view.render_line(y).text[7:] for y in range(1, 8)]
        assert any("⠀" < sign <= "⣿" for line in canvas for sign in line)  # braille
        assert all(any(letter in line for line in canvas) for letter in "nav")


async def test_grains_are_seen_as_a_map_coloured_by_their_size(demo: Path, tmp_path: Path) -> None:
    out, masks = tmp_path / "numbers", tmp_path / "masks"
    mask = np.ones((120, 160), np.uint8)
    mask[30::30] = mask[:, 50] = 0  # boundaries: narrow grains at the left, wide ones at the right
    masks.mkdir()
    mask_file = masks / "gr[ain]s.png"
    told = PngInfo()
    told.add_text("pixel_nm", "2 2")
    Image.fromarray(mask).save(mask_file, pnginfo=told)
    tool = _tool("m")
    values = _values(tool, demo, masks=str(masks), out=str(out), standard="e112")
    words = tool.words(demo, values)
    assert "e112" in words
    found = tool.work(demo, values, words)
    assert isinstance(found, TextFound)
    (one,) = found.maps
    assert (one.title, one.size_HW) == ("gr[ain]s.png", (120, 160))
    assert one.words.startswith("Dark: ")
    narrow, wide = (one.colours[3 * (160 * 60 + x + 10 * 160) :][:3] for x in (20, 100))
    assert narrow != wide
    async with opened(demo, "1", size=(100, 40)) as pilot:
        pilot.app.screen.post_message(found)
        await until(
            pilot, lambda: any(one.size.height for one in pilot.app.screen.query(SizeMapView))
        )
        view = pilot.app.screen.query_one(SizeMapView)
        lines = [list(view.render_line(y)) for y in range(view.size.height)]
        assert "gr[ain]s.png: grains by size" in view.render_line(0).text
        styles = {cell.style.color for line in lines[2:] for cell in line if "▀" in cell.text}
        assert len(styles) >= 3  # two sizes and the boundary
    values = {**values, "standard": "no"}
    again = tool.work(demo, values, tool.words(demo, values))
    assert isinstance(again, TextFound)
    assert again.maps == ()  # those of before are no part of this measurement


def test_maps_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "grain-map-1.png").write_bytes(b"no picture")
    assert size_maps(tmp_path) == ()


def test_half_of_a_cumulative_distribution_is_found_between_its_points() -> None:
    curve = SizeCurve(name="by number", points=((10.0, 0.0), (10.0, 25.0), (20.0, 75.0)))
    assert half_size(curve) == 15.0
    assert half_size(SizeCurve(name="by area", points=((3.0, 0.0), (3.0, 100.0)))) == 3.0


def test_a_folder_without_whole_objects_has_no_distributions(tmp_path: Path) -> None:
    assert size_charts(tmp_path) == ()
    head = "mask,class,touches_border,equivalent_diameter_nm\n"
    (tmp_path / "objects.csv").write_text(f"{head}a,grain,yes,5\n")
    assert size_charts(tmp_path) == ()
    (tmp_path / "objects.csv").write_text(f"{head}a,grain,no,nonsense\n")
    assert size_charts(tmp_path) == ()


@pytest.mark.parametrize("size", [(60, 16), (100, 30)])
async def test_a_window_looks_the_same_whichever_was_opened_before_it(
    demo: Path, size: tuple[int, int]
) -> None:
    notice = Notice(title="a fault", what="what it is")
    windows: list[Callable[[], Screen[Any]]] = [
        lambda: ToolScreen(_tool("i"), demo, _tool("i").fields(demo)),
        lambda: ToolsScreen(has_project=True),
        lambda: MessageScreen(notice),
        lambda: TextScreen("a text", "its words"),
        lambda: AskScreen("How many?", "10"),
        lambda: ConfirmScreen("Leave?", "leave"),
    ]
    seen: dict[int, str] = {}
    for order in (range(len(windows)), reversed(range(len(windows)))):
        async with opened(demo, "6", size=size) as pilot:
            for n in order:
                window = windows[n]()
                await pilot.app.push_screen(window)
                await pilot.pause()
                words = screen_text(pilot)
                assert seen.setdefault(n, words) == words
                assert "─" * 20 in words, type(window).__name__  # its frame
                window.dismiss()
                await pilot.pause()
    assert "/incoming" in seen[0]  # what stands in a field is seen


def test_what_a_measurement_leaves_out_is_read_in_the_interface_too(demo: Path) -> None:
    """The engine says it beside its answer: what nobody reads, nobody was told."""
    masks, tool, project = demo / "m", _tool("m"), demo / "project.toml"
    project.write_text(project.read_text().replace("pixel_nm = 8\n", ""))
    masks.mkdir()
    for number in range(2):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(masks / f"{number}.png")
    values = _values(tool, demo, masks=str(masks), out=str(demo / "numbers"))
    found = tool.work(demo, values, tool.words(demo, values))
    assert isinstance(found, TextFound)
    assert "no file says its pixel size: all numbers are in px" in found.text
