"""Numbers of things in words; a cell of a table is what it says, for people and spreadsheets."""

import csv
import io
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.text import cell_of, few, for_shell, how_many, text_of_cell, told_apart

EVIL = "=+-@＝＋－＠"
BLANKS = " \t\r\n\u00a0\u200b\ufeff'"
texts = st.text(st.sampled_from([*EVIL, *BLANKS, *';a1."', ",", "|"]), max_size=8) | st.text()


def test_one_thing_is_not_told_as_many() -> None:
    assert [how_many(n, "image") for n in (0, 1, 2, 5000)] == [
        "0 images",
        "1 image",
        "2 images",
        "5,000 images",
    ]
    assert how_many(1, "mask is", "masks are") == "1 mask is"
    assert how_many(3, "mask is", "masks are") == "3 masks are"


def test_numbers_that_differ_are_told_apart() -> None:
    assert told_apart([0.0, 0.5, 1.0], 4) == ["0", "0.5", "1"]
    assert told_apart([0.52091, 0.52092, 0.52093], 3) == ["0.52091", "0.52092", "0.52093"]
    assert told_apart([1 / 3, 1 / 3], 3) == ["0.333", "0.333"]


def test_of_many_names_the_first_are_told_and_how_many_more() -> None:
    assert few(["a", "b", "c"], 3) == "a, b, c"
    assert few(["a", "b", "c", "d"], 2, between="; ") == "a; b and 2 more"


@pytest.mark.parametrize("sign", EVIL)
@pytest.mark.parametrize("before", ["", *BLANKS, "  ", "x;", "x\t", "x; ", "a\n", "''"])
def test_what_a_spreadsheet_would_run_begins_with_an_apostrophe(sign: str, before: str) -> None:
    cell = str(cell_of(f"{before}{sign}SUM(A1)"))
    for part in _parts(cell):
        assert part.lstrip(BLANKS[:-1])[:1] not in set(EVIL)


@given(texts)
def test_a_cell_gives_its_text_back(text: str) -> None:
    assert text_of_cell(str(cell_of(text))) == text


@given(texts)
def test_no_cell_is_run_wherever_a_spreadsheet_parts_it(text: str) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerow([cell_of(text), "x"])
    (read,) = csv.reader(io.StringIO(stream.getvalue(), newline=""))
    for part in _parts(read[0]):
        assert part.lstrip(BLANKS[:-1])[:1] not in set(EVIL) or _is_number(part)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_numbers_stay_numbers(number: float) -> None:
    assert cell_of(number) == number
    assert cell_of(str(number)) == str(number)
    assert cell_of(f"{number:.10g}") == f"{number:.10g}"


def _is_number(part: str) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _parts(cell: str) -> list[str]:
    for mark in ";\t\r":
        cell = cell.replace(mark, "\n")
    return cell.split("\n")


@pytest.mark.parametrize(
    "name", ["a b.tif", "-rf", "a;touch x", "$(id)", "it's", "a\nb", "plain.tif"]
)
def test_a_path_in_a_command_to_paste_is_one_word_and_no_option(name: str) -> None:
    words = shlex.split(f"chmod +r {for_shell(Path(name))}")
    assert words[:2] == ["chmod", "+r"]
    assert len(words) == 3
    assert Path(words[2]) == Path(name)
    assert not words[2].startswith("-")
