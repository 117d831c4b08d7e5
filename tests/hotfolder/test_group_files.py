"""The files of a group: whole, named for it alone, and never over what a person changed."""

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from emcfsys_engine.hotfolder import group_files
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.hotfolder.review import say_word
from emcfsys_engine.images.output_book import OutputBook
from tests.hotfolder.test_groups import LIMITS, watched
from tests.hotfolder.test_recipe import project_in
from tests.hotfolder.test_review import record

CONTRACT = Path(__file__).parents[1] / "contracts" / "data"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_group_has_one_json_and_one_csv_as_the_contract_says(tmp_path: Path) -> None:
    project = project_in(tmp_path, LIMITS)
    ledger = watched(project)
    ledger.tell_groups(project, OutputBook(ledger.output))
    folder = group_files.folder_of(ledger.output)
    ledger.close()
    assert names(folder) == ["s1.csv", "s1.json", "s2.csv", "s2.json"]
    for name in ("group-v1.json", "group-v1.csv"):
        kept, made = CONTRACT / name, folder / name.replace("group-v1", "s1")
        assert made.read_bytes() == kept.read_bytes(), name


def test_a_file_is_written_once_until_its_group_is_another_and_a_persons_is_kept(
    tmp_path: Path,
) -> None:
    project = project_in(tmp_path, LIMITS)
    ledger = watched(project)
    folder, book = group_files.folder_of(ledger.output), OutputBook(ledger.output)
    ledger.tell_groups(project, book)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    ledger.judge_by({})  # touches every group
    ledger.judge_by(project.limits)
    ledger.tell_groups(project, book)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before

    (folder / "s1.json").write_text("a person's")
    say_word(ledger.output, ["s1/c.tif"], "accepted")
    ledger.tell_groups(project, book)
    assert (folder / "s1.json").read_text() == "a person's"
    document = json.loads((folder / "s1.v2.json").read_text())
    assert document["counts"] == {"pass": 3, "review": 0, "fail": 0, "not_judged": 0}
    with (folder / "s1.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["image"], row["verdict"], row["word"]) for row in rows][2] == (
        "s1/c.tif",
        "pass",
        "accepted",
    )
    ledger.close()


def test_files_of_groups_that_are_none_any_more_go_and_a_persons_stays(tmp_path: Path) -> None:
    ledger = watched(project := project_in(tmp_path, LIMITS))
    folder, book = group_files.folder_of(ledger.output), OutputBook(ledger.output)
    ledger.tell_groups(project, book)
    (folder / "s1.json").write_text("a person's")
    say_word(ledger.output, ["s1/c.tif"], "accepted")
    ledger.tell_groups(project, book)
    (folder / "s1.v3.json.txt").write_text("a note")
    mine = ["s1.json", "s1.v3.json.txt"]
    assert names(folder) == sorted([*mine, "s1.csv", "s1.v2.json", "s2.csv", "s2.json"])
    other = project_in(tmp_path, LIMITS.replace('"folder"', "'^s(.)|^(s2)'"))
    ledger.follow(other, None)
    ledger.close()  # before it could tell: the next one does
    ledger = Ledger(ledger.output, owner="the next")
    ledger.tell_groups(other, OutputBook(ledger.output))
    assert names(folder) == ["1.csv", "1.json", "2.csv", "2.json", *mine]
    ledger.follow(project, None)
    ledger.tell_groups(project, OutputBook(ledger.output))
    assert names(folder) == sorted([*mine, "s1.csv", "s1.v2.json", "s2.csv", "s2.json"])
    ledger.close()


def test_a_place_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    project = project_in(tmp_path, LIMITS)
    ledger = watched(project)
    folder, book = group_files.folder_of(ledger.output), OutputBook(ledger.output)
    folder.write_text("no folder")
    with pytest.raises(OSError, match="groups"):
        ledger.tell_groups(project, book)
    folder.unlink()
    ledger.tell_groups(project, book)
    assert len(names(folder)) == 4
    ledger.close()


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
@example(["a", "a.v2"])  # which a file that a person changed would push the next one to
def test_no_two_groups_share_a_file_and_none_leads_out_of_the_folder(groups: list[str]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in groups]
    one, other = (group_files.name_of(text) for text in texts)
    assert (one == other) == (texts[0] == texts[1])
    assert "/" not in one
    assert not one.startswith((".", "~"))
    assert not re.search(r"\.v\d+$", other)
    assert len(f"{one}.v2.json".encode()) < 255


def test_each_plane_of_a_stack_has_a_row_with_its_own_mask(tmp_path: Path) -> None:
    project = project_in(tmp_path, LIMITS)
    ledger = watched(project)
    entry = Entry(path="s3/v.tif", size=1, mtime_ns=1, digest="d", mask="s3/v.0002.v2.png")
    numbers = {str(plane): {"confidence": 0.9} for plane in range(3)}
    record(ledger, (entry, Judged(path="s3/v.tif", digest="d", numbers=numbers)))
    ledger.tell_groups(project, OutputBook(ledger.output))
    with (group_files.folder_of(ledger.output) / "s3.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["plane"], row["mask"]) for row in rows] == [
        (str(plane), f"s3/v.000{plane}.v2.png") for plane in range(3)
    ]
    ledger.close()
