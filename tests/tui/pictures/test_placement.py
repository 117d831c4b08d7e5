"""Where the terminal's own pixels lie, and where they are not sent."""

import pytest

from emcfsys_tui.pictures.placement import Graphic, kind_of


def test_kittys_protocol_is_not_sent_into_tmux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux-1/default,1,0")
    assert kind_of("kitty") == "" and kind_of("sixel") == "sixel"
    monkeypatch.delenv("TMUX")
    assert kind_of("kitty") == "kitty"


def test_half_blocks_cost_no_graphics() -> None:
    assert kind_of("grey") == kind_of("colour") == ""
    assert Graphic("kitty").remove() == ""
