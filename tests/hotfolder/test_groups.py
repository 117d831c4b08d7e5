"""Groups: which images are of one, and how they are judged together."""

from pathlib import Path

import pytest

from emcfsys_engine.hotfolder.groups import group_of
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.review import groups_of, say_word
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.project import Project
from tests.hotfolder.test_recipe import project_in
from tests.hotfolder.test_review import predicted, record

LIMITS = """
[limits]
group = "folder"
[limits.confidence]
fail_below = 0.6
[limits.groups.confidence_mean]
review_below = 0.8
[limits.groups.fail_share]
fail_above = 0.4
"""


@pytest.mark.parametrize(
    ("path", "expression", "group"),
    [
        ("s1/a.tif", "folder", "s1"),
        ("s1/t2/a.tif", "folder", "s1/t2"),
        ("a.tif", "folder", "."),
        ("grid7_a.tif", r"^(grid\d+)_", "grid7"),
        ("grid7_a.tif", r"grid\d+", "grid7"),
        ("other.tif", r"^(grid\d+)_", None),
        ("a.tif", "", None),
        ("s\udcff/a.tif", "folder", "s\udcff"),
    ],
)
def test_the_group_of_an_image_is_its_folder_or_what_an_expression_finds(
    path: str, expression: str, group: str | None
) -> None:
    assert group_of(path, expression) == group


def watched(project: Project) -> Ledger:
    """A folder with three images in one group, and one in another."""
    ledger = Ledger(project.folder / "predictions", owner="x")
    ledger.follow(project, None)
    made = [("s1/a.tif", 0.9), ("s1/b.tif", 0.7), ("s1/c.tif", 0.5), ("s2/d.tif", 0.95)]
    record(ledger, *(predicted(name, value) for name, value in made))
    ledger.judge_by(project.limits)
    return ledger


def states(output: Path) -> dict[str, str]:
    return {group.name: group.state for group in groups_of(output)}


def test_a_group_is_judged_by_its_images_and_again_when_a_person_says_a_word(
    tmp_path: Path,
) -> None:
    project = project_in(tmp_path, LIMITS)
    ledger = watched(project)
    book = OutputBook(ledger.output)
    ledger.tell_groups(project, book)
    first, second = groups_of(ledger.output)
    assert first.numbers["images"] == 3
    assert first.numbers["confidence_mean"] == pytest.approx(0.7)
    assert first.numbers["confidence_median"] == pytest.approx(0.7)
    assert first.numbers["fail_share"] == pytest.approx(1 / 3)
    assert first.verdicts == {"pass": 2, "fail": 1}
    assert (first.state, first.reasons) == (
        "review",
        ("confidence_mean 0.7 is below 0.8 (review)",),
    )
    assert second.state == "pass"

    say_word(ledger.output, ["s1/b.tif"], "rejected", "drifted")
    ledger.tell_groups(project, book)
    assert states(ledger.output) == {"s1": "fail", "s2": "pass"}
    ledger.close()


def test_another_expression_deals_all_images_anew_and_other_limits_judge_anew(
    tmp_path: Path,
) -> None:
    ledger = watched(project_in(tmp_path, LIMITS))
    other = project_in(tmp_path, LIMITS.replace('"folder"', "'^s(.)'").replace("0.8", "0.99"))
    ledger.follow(other, None)
    ledger.tell_groups(other, OutputBook(ledger.output))
    assert states(ledger.output) == {"1": "review", "2": "review"}
    none = project_in(tmp_path)
    ledger.follow(none, None)
    ledger.tell_groups(none, OutputBook(ledger.output))
    assert states(ledger.output) == {}
    ledger.close()


def test_images_of_a_ledger_from_before_there_were_groups_get_theirs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "predictions", owner="x")
    record(ledger, predicted("s1/a.tif", 0.9))
    project = project_in(tmp_path, LIMITS)
    ledger.follow(project, None)
    ledger.tell_groups(project, OutputBook(ledger.output))
    assert states(ledger.output) == {"s1": "pass"}
    ledger.close()
