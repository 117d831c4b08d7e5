"""The numbers of a hot folder over time, and when they became others."""

import random
from pathlib import Path

from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.hotfolder.review import say_word
from emcfsys_engine.hotfolder.series import names_in, parts_of, read_series, trend_of
from emcfsys_engine.project import Project
from emcfsys_engine.text import moment
from tests.hotfolder.test_recipe import project_in

BEGAN = 1_790_000_000.0  # seconds since 1970
SHARP = '[limits]\ngroup = "folder"\n[limits.sharpness]\nfail_below = 0.1\n'


def session(project: Project, number: int = 100, every_s: float = 60.0) -> Path:
    """A ledger of a session whose sharpness falls at image 60, with two failed images."""
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
        numbers = {"sharpness": level + chance.gauss(0, 0.01), "confidence": 0.9}
        judged.append(Judged(path=name, digest="d", numbers={"": numbers}))
    for place in range(2):
        late = int((BEGAN + 1) * 1e9)
        bad = Entry(path=f"bad{place}.tif", size=1, mtime_ns=late, state="failed", reason="is cut")
        entries.append(bad)
    ledger.record(entries, (), judged)
    ledger.judge_by(project.limits)
    ledger.write_journal()
    ledger.close()
    return output


def test_a_shift_is_told_with_the_time_and_the_image_at_which_it_began(tmp_path: Path) -> None:
    output = session(project_in(tmp_path, SHARP))
    images = read_series(output)
    assert [one.path for one in images] == sorted(one.path for one in images)
    assert names_in(images) == ["sharpness", "confidence"]
    trend = trend_of(images, "sharpness")
    assert trend is not None
    (told,) = trend.told()
    when = moment(BEGAN + 60 * 60, "%Y-%m-%d %H:%M:%S")
    assert told.startswith("sharpness fell from 0.296 to 0.0499")
    assert told.endswith(f"at {when}, from g1/0060.tif on")
    assert {*range(60, 100)} <= {one.place for one in trend.signals}
    steady = trend_of(images, "confidence")
    assert steady is not None
    assert (steady.shifts, steady.signals) == ((), ())
    assert {group: len(of) for (group, _), of in parts_of(images).items()} == {"g0": 50, "g1": 50}


def test_only_the_newest_are_read_and_a_persons_word_counts(tmp_path: Path) -> None:
    output = session(project_in(tmp_path, SHARP))
    say_word(output, ["g1/0099.tif"], "accepted")
    found = read_series(output, most=10)
    assert [one.path for one in found] == [f"g1/{place:04d}.tif" for place in range(90, 100)]
    assert [one.verdict for one in found][-2:] == ["fail", "pass"]
    assert len(read_series(output, since=BEGAN + 60 * 95)) == 5
    assert read_series(tmp_path / "nothing") == []
    assert trend_of(found, "no number") is None


def test_a_clock_that_was_set_back_puts_images_back_and_nothing_fails(tmp_path: Path) -> None:
    output = session(project_in(tmp_path, SHARP), every_s=-60.0)
    trend = trend_of(read_series(output), "sharpness")
    assert trend is not None
    assert "rose" in trend.told()[0]
