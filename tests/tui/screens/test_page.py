"""Help and palette hold every key and action."""

from pathlib import Path

from textual.command import CommandPalette

from emcfsys_tui.screens.page import help_text
from emcfsys_tui.screens.project import ProjectScreen
from tests.tui.conftest import made_run, opened, screen_text, until


async def test_help_names_the_id_of_every_key_at_any_width(demo: Path) -> None:
    async with opened(demo, "1", size=(60, 30)) as pilot:
        for width in (60, 160):
            await pilot.resize_terminal(width, 30)
            text = help_text(pilot.app.screen)
            assert "data.next_bare" in text and "app.tools" in text


async def test_the_palette_reaches_every_tab_in_one_line_each(demo: Path) -> None:
    async with opened(demo, "1", size=(120, 40)) as pilot:
        found = list(pilot.app.get_system_commands(pilot.app.screen))
        titles = [one.title for one in found]
        assert len(set(titles)) == len(titles)
        assert not any(one.help for one in found)
        for words in ("Next image without labels", "Jobs: Retry", "Runs: Extend", "Models: Verify"):
            assert any(words.lower() in title.lower() for title in titles) or words[0] == "N", words
        await pilot.press("colon")
        await until(pilot, lambda: isinstance(pilot.app.screen, CommandPalette))
        await pilot.press(*"Models: inspect")
        await until(pilot, lambda: "Models: Inspect" in screen_text(pilot))
        await pilot.press("enter", "enter")
        screen = pilot.app.screen_stack[0]
        assert isinstance(screen, ProjectScreen)
        await until(pilot, lambda: "No model files yet" in screen_text(pilot))


async def test_every_action_is_in_the_palette_and_every_key_in_the_help(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, "3", size=(120, 50)) as pilot:
        app = pilot.app
        titles = [command.title for command in app.get_system_commands(app.screen)]
        for word in ("Overlay: ", "Compare: ", "Delete: ", "Hot folder: ", "Theme: ", "End …: "):
            assert any(title.startswith(word) for title in titles), word
        await pilot.press("question_mark")
        await until(pilot, lambda: "runs.mark" in screen_text(pilot))
