"""Questions over the screen: answered by their keys, and nothing is lost by leaving."""

from emcfsys_tui.screens.dialogs import AskScreen, ConfirmScreen
from tests.tui.conftest import opened

_UNSET = object()


async def answers(screen: ConfirmScreen | AskScreen, *keys: str) -> object:
    """Return what a question gives back for some keys."""
    found: list[object] = []
    async with opened(None) as pilot:
        pilot.app.push_screen(screen, found.append)
        await pilot.pause()
        await pilot.press(*keys)
        await pilot.pause()
    return found[0] if found else _UNSET


async def test_a_question_is_answered_by_y_and_n_and_not_by_anything_else() -> None:
    assert await answers(ConfirmScreen("Delete?", "delete it"), "y") is True
    for key in ("n", "escape", "q"):
        assert await answers(ConfirmScreen("Delete?", "delete it"), key) is False
    assert await answers(ConfirmScreen("Delete?", "delete it"), "x", "space") is _UNSET


async def test_a_line_is_given_back_as_typed_and_escape_gives_none() -> None:
    assert await answers(AskScreen("How many?", "1"), "0", "enter") == "10"
    assert await answers(AskScreen("How many?", "1"), "0", "escape") is None
