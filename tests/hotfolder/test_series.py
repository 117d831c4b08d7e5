"""The numbers of a hot folder over time, and when they became others."""

import random
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.hotfolder.review import say_word
from emcfsys_engine.hotfolder.series import Trend, names_in, parts_of, read_series, trend_of
from emcfsys_engine.project import Project
from emcfsys_engine.text import moment
from tests.hotfolder.test_recipe import project_in

BEGAN = 1_790_000_000.0  # seconds since 1970
SHARP = '[limits]\ngroup = "folder"\n[limits.sharpness]\nfail_below = 0.1\n'


def session(
    project: Project,
    number: int = 100,
    every_s: float = 60.0,
    recipes: Mapping[int, str] | None = None,
) -> Path:
    """A ledger of a session whose sharpness and fraction of b fall at image 60; two images failed.

    `recipes`: by the first image that each was followed for.
    """
    output = project.folder / "predictions"
    ledger = Ledger(output, owner="x")
    ledger.follow(project, None)
    chance = random.Random(2)
    entries: list[Entry] = []
    judged: list[Judged] = []
    for place in range(number):
        name = f"g{place // 50}/{place:04d}.tif"
        time_ns = int((BEGAN + every_s * place) * 1e9)
        entries.append(Entry(path=name, size=1, mtime_ns=time_ns, digest="d", mask="m.png"))
        level = 0.05 if place >= 60 else 0.3
        value = level + chance.gauss(0, 0.01)
        numbers = {"sharpness": value, "confidence": 0.9, "b_fraction": value}
        judged.append(Judged(path=name, digest="d", numbers={"": numbers}))
    for place in range(2):
        late = int((BEGAN + 1) * 1e9)
        bad = Entry(path=f"bad{place}.tif", size=1, mtime_ns=late, state="failed", reason="is cut")
        entries.append(bad)
    recipes = recipes or {}
    starts = sorted({0, *recipes})
    for first, after in zip(starts, [*starts[1:], len(entries)], strict=True):
        ledger.recipe = recipes.get(first, "")
        ledger.record(entries[first:after], (), judged[first:after])
    ledger.judge_by(project.limits)
    ledger.write_journal()
    ledger.close()
    return output


def test_a_shift_is_told_with_the_time_and_the_image_at_which_it_began(tmp_path: Path) -> None:
    output = session(project_in(tmp_path, SHARP))
    images = read_series(output)
    assert [one.path for one in images] == sorted(one.path for one in images)
    assert names_in(images) == ["sharpness", "confidence", "b_fraction"]
    trend = trend_of(images, "sharpness")
    assert trend is not None
    ((at, told),) = trend.told()
    assert at == BEGAN + 60 * 60
    when = moment(BEGAN + 60 * 60, "%Y-%m-%d %H:%M:%S")
    assert told.startswith("sharpness fell from 0.296 to 0.0499")
    assert told.endswith(f"at {when}, from g1/0060.tif on")
    assert {*range(60, 100)} <= {one.place for one in trend.signals}
    steady = trend_of(images, "confidence")
    assert steady is not None
    assert (steady.shifts, steady.signals) == ((), ())
    parts = parts_of(images)
    assert {words: len(of) for words, of in parts.items()} == {"group g0": 50, "group g1": 50}
    assert parts_of(parts["group g0"]) == {}  # nothing to choose between


def test_only_the_newest_are_read_and_a_persons_word_counts(tmp_path: Path) -> None:
    output = session(project_in(tmp_path, SHARP))
    say_word(output, ["g1/0099.tif"], "accepted")
    found = read_series(output, most=10)
    assert [one.path for one in found] == [f"g1/{place:04d}.tif" for place in range(90, 100)]
    assert [one.verdict for one in found][-2:] == ["fail", "pass"]
    assert len(read_series(output, since=BEGAN + 60 * 95)) == 5
    assert read_series(output, since=253370764800.0) == []  # the year 9999
    assert read_series(tmp_path / "nothing") == []
    assert trend_of(found, "no number") is None


def test_a_clock_that_was_set_back_puts_images_back_and_nothing_fails(tmp_path: Path) -> None:
    output = session(project_in(tmp_path, SHARP), every_s=-60.0)
    trend = trend_of(read_series(output), "sharpness")
    assert trend is not None
    assert "rose" in trend.told()[0][1]


def trend_by(tmp_path: Path, recipes: dict[int, str], name: str = "b_fraction") -> Trend:
    found = trend_of(read_series(session(project_in(tmp_path), recipes=recipes)), name)
    assert found is not None
    return found


def test_each_recipe_has_limits_of_its_own_and_the_change_is_told_instead_of_a_shift(
    tmp_path: Path,
) -> None:
    trend = trend_by(tmp_path, {20: "a" * 16, 60: "b" * 16})
    centres = [(centre, len([*of])) for centre, of in groupby(one.centre for one in trend.limits)]
    assert [number for _, number in centres] == [20, 40, 40]
    assert all(abs(centre - 0.3) < 0.01 for centre, _ in centres[:2])
    assert abs(centres[2][0] - 0.05) < 0.01
    assert trend.shifts == ()  # it fell with the recipe, and neither part changed in itself
    assert len(trend.signals) < 10
    assert abs(trend.ewma[60] - 0.05) < 0.02  # begins anew
    assert [(one.place, one.before, one.after) for one in trend.changes] == [
        (20, "", "a" * 16), (60, "a" * 16, "b" * 16),
    ]  # fmt: skip
    first, second = (moment(BEGAN + 60 * n, "%Y-%m-%d %H:%M:%S") for n in (20, 60))
    assert [words for _, words in trend.told()] == [
        f"recipe aaaaaaaa instead of no recipe at {first}, from g0/0020.tif on",
        f"recipe bbbbbbbb instead of recipe aaaaaaaa at {second}, from g1/0060.tif on",
    ]
    (_, centre), *_ = [line for line in trend.levels() if line[0] == "centre"]
    assert [time for time, _ in centre] == [BEGAN + 60 * n for n in (0, 19, 20, 59, 60, 99)]


def test_a_defocus_is_told_although_the_recipe_changed_with_it(tmp_path: Path) -> None:
    trend = trend_by(tmp_path, {60: "b" * 16}, "sharpness")
    recipe, fell = sorted((words for _, words in trend.told()), key=lambda words: words[0])
    assert recipe.startswith("recipe bbbbbbbb instead of no recipe at")
    assert fell.startswith("sharpness fell from 0.29")
    assert len({*trend.limits}) == 1


def test_a_recipe_that_comes_back_has_its_limits_again_and_single_images_tell_nothing(
    tmp_path: Path,
) -> None:
    trend = trend_by(tmp_path, {0: "a", 10: "b", 11: "a", 60: "c", 97: "a"})
    assert trend.limits[5] == trend.limits[11] == trend.limits[99] != trend.limits[10]
    changes = [(one.place, one.before, one.after) for one in trend.changes]
    assert changes == [(60, "a", "c"), (97, "c", "a")]  # the newest counts, be it short


def test_a_part_is_of_one_group_or_of_one_recipe(tmp_path: Path) -> None:
    output = session(project_in(tmp_path, SHARP), recipes={70: "a" * 16})
    parts = {words: len(members) for words, members in parts_of(read_series(output)).items()}
    assert parts == {"group g0": 50, "group g1": 50, "no recipe": 70, "recipe aaaaaaaa": 30}
