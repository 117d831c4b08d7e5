"""Text in so many cells, safe for a terminal."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from emcfsys_tui.text import fitted, one_line, reason_words, safe_lines, shortened


@given(st.lists(st.text("abc", min_size=1, max_size=20), max_size=9), st.integers(0, 80))
def test_names_are_cut_only_where_they_do_not_fit_and_the_longest_first(
    names: list[str], room: int
) -> None:
    shown = shortened(names, room)
    assert sum(map(len, shown)) <= room or not any(shown)
    if sum(map(len, names)) <= room:
        assert shown == names
    cut = [len(one) for one, name in zip(shown, names, strict=True) if one != name]
    whole = [len(one) for one, name in zip(shown, names, strict=True) if one == name]
    assert not cut or not whole or max(whole) <= max(cut) or not max(cut)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb", "a b"),
        ("a\tb", "a   b"),
        ("C:\\new", "C:\\new"),
        ("\x1b[2J\n", "\\x1b[2J"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_a_row_shows_breaks_as_spaces_and_escapes_the_rest(text: str, line: str) -> None:
    assert one_line(text) == line
    assert "\x1b" not in safe_lines(text)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("early_stopping", "early stopping"),
        (
            "/a/my_b.tif: is half a file. Copy it again.",
            "is half a file. Copy it again.  /a/my_b.tif",
        ),
        ("my_b.tif: is half a file.", "my_b.tif: is half a file."),
        ("/a: b\n/c: d", "b  /a\nd  /c"),
        ("/a/b", "/a/b"),
    ],
)
def test_a_reason_is_said_before_the_path_of_its_file(reason: str, words: str) -> None:
    assert reason_words(reason) == words


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, 30), st.sampled_from(["end", "middle", "start"]))
def test_fitted_text_is_exactly_as_wide_as_asked(text: str, width: int, cut: str) -> None:
    clean = "".join(c for c in text if cell_len(c) > 0)
    assert cell_len(fitted(clean, width, cut=cut)) == width
