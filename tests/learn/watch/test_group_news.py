"""What becomes of a group's verdict is told once, over all starts of the watch."""

from pathlib import Path

import pytest

from emcfsys_engine.commands.review import review
from emcfsys_engine.run.events import GroupJudged
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.lines import line_of
from tests.commands.made import say
from tests.learn.hot import Hot
from tests.learn.watch.test_verdicts import limit, once, written_by_hook


def test_a_groups_first_verdict_and_each_other_one_are_told_once_by_event_and_hook(
    tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "$EMCFSYS_GROUP|$EMCFSYS_VERDICT_BEFORE|$EMCFSYS_VERDICT|$EMCFSYS_VERDICT_REASONS"
    told = written_by_hook(tmp_path, monkeypatch, "group_judged", words)
    hot = Hot(tmp_path, model_file)
    groups = '[limits]\ngroup = "^(.)"\n[limits.groups.images]\n'
    limit(hot, groups + "fail_above = 1.5\n")
    hot.image("a1.png")

    def judged(run: Run) -> list[tuple[str, str, str, int]]:
        found = [event for event in run.events() if isinstance(event, GroupJudged)]
        return [(one.group, one.before, one.verdict, one.images) for one in found]

    assert judged(once(hot)) == [("a", "", "pass", 1)]
    assert judged(once(hot)) == []  # nothing new
    hot.image("a2.png")
    hot.image("b1.png")
    run = once(hot)
    assert judged(run) == [("a", "pass", "fail", 2), ("b", "", "pass", 1)]
    assert "group a FAIL (was PASS): images 2 is above" in "\n".join(map(line_of, run.events()))
    lines = told.read_text().splitlines()
    assert [line.split("|")[:3] for line in lines] == [
        ["a", "", "pass"],
        ["a", "pass", "fail"],
        ["b", "", "pass"],
    ]
    assert "is above 1.5 (fail)" in lines[1]

    limit(hot, groups + "review_above = 1.5\n")
    say(review, str(hot.folder), "judge")  # while nobody watches
    assert judged(once(hot)) == [("a", "fail", "review", 2)]
