"""Errors are one line, and no text from outside steers a terminal."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.errors import (
    DataFaults,
    EmcfError,
    ImageError,
    InputError,
    OutputError,
    ProjectError,
    RunFailedError,
    WatchedError,
    printable,
    why_no_import,
)


@given(st.text(st.characters(codec=None)))
def test_printable_text_has_no_control_character_and_plain_text_stays(text: str) -> None:
    shown = printable(text)
    assert not any(ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0 for one in shown)
    shown.encode("utf-8")  # lone surrogates are escaped as well
    assert printable(shown) == shown


def test_an_error_says_where_what_and_the_remedy_each_ended_by_one_full_stop() -> None:
    assert str(InputError("a.tif", "is cut.", "Copy it again")) == "a.tif: is cut. Copy it again."
    assert str(InputError("a.tif", "is cut")) == "a.tif: is cut."
    fault = ProjectError("p.toml", "training.steps", "is 0", "Set 1 or more")
    assert str(fault) == "p.toml: training.steps: is 0. Set 1 or more."


def test_names_with_escapes_are_shown_and_do_nothing() -> None:
    assert "\x1b" not in str(InputError("\x1b[2J.tif", "is \u202e no image\n"))
    assert printable("a\u200f\u202e\u2066\u061cb") == r"a\u200f\u202e\u2066\u061cb"
    assert "\\x1b[2J.tif" in str(InputError("\x1b[2J.tif", "is no image"))


def test_several_faults_are_a_line_each() -> None:
    faults = DataFaults([InputError("a", "is cut"), InputError("b", "is cut")])
    assert str(faults).splitlines() == ["a: is cut.", "b: is cut."]


def test_every_error_has_a_code_of_the_manual() -> None:
    def kinds(kind: type[EmcfError]) -> list[type[EmcfError]]:
        return [kind, *(one for below in kind.__subclasses__() for one in kinds(below))]

    assert {kind.exit_code for kind in kinds(EmcfError)} <= {1, 2, 3}
    assert InputError.exit_code == 2


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(ModuleNotFoundError) as missing:
        import no_such_library  # type: ignore[import-not-found] # noqa: F401
    assert "no_such_library" in why_no_import(missing.value)


def test_an_error_comes_to_another_process_as_it_is() -> None:
    """A pool took its process for dead, and said that memory may be short."""
    faults = [
        ImageError(Path("a.tif"), "is damaged", "Copy it again"),
        ProjectError("project.toml", "classes", "is empty", "Name one"),
        OutputError(Path("out"), "cannot be written", "Free some space", errno=28),
        WatchedError(Path("out"), "is watched", "Stop that watch", run="run-0001"),
    ]
    for fault in (*faults, DataFaults(faults), RunFailedError("no step was done")):
        there = pickle.loads(pickle.dumps(fault))
        assert (type(there), str(there)) == (type(fault), str(fault))
        assert vars(there).keys() == vars(fault).keys()
