"""Data while somebody draws: labels are read again, the next bare image is one key away."""

from pathlib import Path

from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.list import ImageList, Rows
from tests.tui.conftest import opened, told, until


def _labels(pane: DataPane) -> dict[str, str]:
    rows = pane.query_one("#images", Rows).rows
    assert isinstance(rows, ImageList)
    return {image.name: image.labels for image in rows.images}


async def test_a_label_that_is_mended_is_checked_again_without_a_key(demo: Path) -> None:
    file = min((demo / "annotations" / "train").glob("*.json"))
    whole = file.read_bytes()
    file.write_bytes(b"{")
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: not pane.check_state.running, limit_s=60)
        assert any(one.level == "error" for one in pane.check_state.findings)
        file.write_bytes(whole)
        await until(
            pilot,
            lambda: (
                not pane.check_state.running
                and not any(one.level == "error" for one in pane.check_state.findings)
            ),
            limit_s=60,
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
        await until(pilot, lambda: any(_labels(pane).values()), limit_s=60)
        rows = pane.query_one("#images", Rows)
        seen: list[str] = []
        for _ in range(3):
            await pilot.press("u")
            assert rows.current is not None
            seen.append(Path(rows.current.key).stem)
        assert seen == [files[2].stem, files[5].stem, files[2].stem]
        for file, content in drawn.items():
            file.write_bytes(content)
        await until(pilot, lambda: all(_labels(pane).values()), limit_s=60)
        await pilot.press("u")
        await until(pilot, lambda: "Every image has labels" in told(pilot))
