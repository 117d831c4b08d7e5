"""Data while somebody draws: labels are read again, the next bare image is one key away."""

from pathlib import Path

import msgspec
from PIL import Image
from textual.widgets import Input

from emcfsys_engine.annotations.formats.labelme import write_labelme
from emcfsys_engine.annotations.shapes import Shape
from emcfsys_tui.screens.dialogs import AskScreen
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.list import ImageList, Rows
from emcfsys_tui.widgets.picture_view import PictureView
from tests.tui.conftest import opened, screen_text, told, until


def _labels(pane: DataPane) -> dict[str, str]:
    rows = pane.query_one("#images", Rows).rows
    assert isinstance(rows, ImageList)
    return {image.name: image.labels for image in rows.images.rows}


async def test_a_label_that_is_mended_is_checked_again_without_a_key(demo: Path) -> None:
    file = min((demo / "annotations" / "train").glob("*.json"))
    whole = file.read_bytes()
    file.write_bytes(b"{")
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: not pane.check_state.running)
        assert any(one.level == "error" for one in pane.check_state.findings)
        file.write_bytes(whole)
        await until(
            pilot,
            lambda: (
                not pane.check_state.running
                and not any(one.level == "error" for one in pane.check_state.findings)
            ),
        )


async def test_one_key_goes_to_the_next_image_without_labels_and_a_drawn_one_is_none(
    demo: Path,
) -> None:
    files = sorted((demo / "annotations" / "train").glob("*.json"))
    drawn = {file: file.read_bytes() for file in (files[2], files[5])}
    for file in drawn:
        file.unlink()
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: any(_labels(pane).values()))
        rows = pane.query_one("#images", Rows)
        seen: list[str] = []
        for _ in range(3):
            await pilot.press("u")
            assert rows.current is not None
            seen.append(Path(rows.current.key).stem)
        assert seen == [files[2].stem, files[5].stem, files[2].stem]
        for file, content in drawn.items():
            file.write_bytes(content)
        await until(pilot, lambda: all(_labels(pane).values()))
        await pilot.press("u")
        await until(pilot, lambda: "Every image has labels" in told(pilot))


async def test_each_image_says_how_far_it_is_labelled(demo: Path) -> None:
    bare, suggested = sorted((demo / "annotations" / "train").glob("*.json"))[:2]
    bare.unlink()
    images = demo / "images" / "train" / f"{suggested.stem}.png"
    shapes: list[Shape] = []
    write_labelme(suggested, shapes, (384, 384), images, suggested_by={"model": "run-0001"})
    text = (demo / "project.toml").read_text()
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)

        def glyphs() -> dict[str, str]:
            return {row.cells[2]: row.cells[1] for row in pane.query_one("#images", Rows).rows}

        await until(pilot, lambda: glyphs().get(bare.stem) == "○")
        assert glyphs()[suggested.stem] == "◇"
        assert sorted(glyphs().values()).count("●") == len(glyphs()) - 2
        sparse = text.replace("[[data]]", '[[data]]\nundrawn = "ignore"')
        (demo / "project.toml").write_text(sparse)  # seen without a key
        await until(pilot, lambda: "◐" in glyphs().values())


async def test_one_key_goes_to_what_a_model_was_least_sure_of(demo: Path) -> None:
    files = sorted((demo / "annotations" / "train").glob("*.json"))
    images = {n: str(demo / "images" / "train" / f"{files[n].stem}.png") for n in (1, 4, 6)}
    for n in (1, 4):
        files[n].unlink()
    ranking = {
        "images": [
            {"image": images[6], "score": 0.9},  # a person labelled it meanwhile
            {"image": images[4], "score": 0.8},
            {"image": images[1], "score": 0.3},
        ]
    }
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: any(_labels(pane).values()))
        await pilot.press("U")
        await until(pilot, lambda: "S suggests, P predicts all" in told(pilot))
        place = demo / "predicted" / "0" / "ranking.json"
        place.parent.mkdir(parents=True)
        place.write_bytes(msgspec.json.encode(ranking))
        rows = pane.query_one("#images", Rows)
        for n in (4, 1, 4):
            await pilot.press("U")
            await until(
                pilot, lambda n=n: rows.current is not None and rows.current.key == images[n]
            )


async def test_an_image_without_labels_shows_what_a_model_suggested(demo: Path) -> None:
    drawn = min((demo / "annotations" / "train").glob("*.json"))
    drawn.unlink()
    mask = Image.new("L", (384, 384))
    mask.paste(2, (60, 60, 200, 300))
    place = demo / ".emcfsys" / "suggestions" / f"{drawn.stem}.png"
    place.parent.mkdir(parents=True)
    mask.save(place)
    async with opened(demo, "1", size=(120, 40)) as pilot:
        await until(pilot, lambda: "prediction: ■" in screen_text(pilot))
        await pilot.press("o")
        await until(pilot, lambda: "bare image" in screen_text(pilot))
        await pilot.press("o", "down")
        await until(pilot, lambda: "labels: ■" in screen_text(pilot))


async def test_data_lists_filters_and_shows_an_image_with_its_labels(demo: Path) -> None:
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: any(row.labels for row in pane.images.rows))
        view = pane.query_one(PictureView)
        await until(pilot, lambda: view.picture is not None and bool(view.picture.ids))
        assert view.picture is not None
        assert len(view.picture.grey) == view.picture.width * view.picture.height
        assert max(view.picture.ids) == 2
        await pilot.press("slash", *"val", "enter")
        assert len(pane.query_one("#images", Rows).rows) == 3
        await pilot.press("escape", "enter", "right", "right")
        await until(pilot, lambda: "value" in screen_text(pilot))
        await pilot.press("z")
        await until(pilot, lambda: view.picture is not None and view.picture.view_px[2] < 384)


async def test_an_answer_about_a_source_is_not_given_to_another_that_took_its_number(
    demo: Path,
) -> None:
    file = demo / "project.toml"
    first = '[[data]]\nimages = "new"\nmasks = "new"\n\n[[data]]'
    changed = file.read_text().replace("[[data]]", first, 1)
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: any(_labels(pane).values()))
        pane.action_split()
        await until(
            pilot,
            lambda: isinstance(pilot.app.screen, AskScreen) and pilot.app.screen.query(Input),
        )
        file.write_text(changed)
        pilot.app.screen.query_one(Input).value = "test"
        await pilot.press("enter")
        await until(pilot, lambda: "changed meanwhile" in told(pilot))
        assert file.read_text() == changed
