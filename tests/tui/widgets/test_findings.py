"""Faults of the check by kind: one row and a count, opened to its files by one key."""

from pathlib import Path

from textual.app import App, ComposeResult

from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.view_models import CheckState, FindingRow
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.findings import Findings, kinds_of
from emcfsys_tui.widgets.list import Rows
from tests.tui.conftest import opened, screen_text, until


def _fault(number: int, what: str, level: str = "warning") -> FindingRow:
    return FindingRow(level=level, file=f"images/cell_{number:04d}.png", what=what)


FAULTS = (
    *(_fault(n, f"{2 + n} outlines without area") for n in range(9)),
    _fault(20, "value 7 is no class", "error"),
    _fault(21, 'label "mito" is no class', "error"),
    _fault(22, 'label "mitos" is no class', "error"),
)


def test_faults_that_differ_in_numbers_names_and_files_are_one_kind() -> None:
    kinds = kinds_of(FAULTS)
    assert [(len(kind.members), kind.what) for kind in kinds] == [
        (1, "value 7 is no class"),
        (2, "label … is no class"),
        (9, "2–10 outlines without area"),
    ]


class _Stage(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.faults = Findings(id="findings")
        self.opened: list[str] = []

    def compose(self) -> ComposeResult:
        yield self.faults

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return {"dim": "#888888", "cursor": "#224466"}

    def on_rows_opened(self) -> None:
        assert self.faults.chosen is not None
        self.opened.append(Path(self.faults.chosen.file).name)


async def test_enter_opens_a_kind_to_its_files_and_a_file_to_its_message() -> None:
    app = _Stage()
    async with app.run_test() as pilot:
        app.faults.findings = FAULTS
        app.faults.focus()
        await pilot.press("down", "down")
        assert [row.cells[1] for row in app.faults.rows] == [
            "cell_0020.png",
            "▸ 2 files",
            "▸ 9 files",
        ]
        await pilot.press("enter")
        assert len(app.faults.rows) == 12 and not app.opened
        await pilot.press("down", "enter")
        assert app.opened == ["cell_0000.png"]
        app.faults.findings = FAULTS[:8]  # one was mended: what was open stays open
        assert len(app.faults.rows) == 9
        await pilot.press("up", "enter")
        assert len(app.faults.rows) == 1


async def test_a_finding_of_the_check_opens_its_file(demo: Path) -> None:
    (demo / "images/train/cell_0007.png").write_bytes(b"no image at all")
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: pane.check_state != CheckState(running=True))
        assert any("cell_0007" in one.file for one in pane.check_state.findings)
        findings = pane.query_one("#findings", Rows)
        findings.focus()
        named = ["cell_0007" in one.file for one in pane.check_state.findings]
        findings.cursor = named.index(True)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen))
        await pilot.press("v")
        row = pane.query_one("#images", Rows).current
        assert row is not None and "cell_0007" in row.key
        await until(pilot, lambda: "cell_0007" in screen_text(pilot))
