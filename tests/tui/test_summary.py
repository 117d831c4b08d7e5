"""One page of text where there is no terminal."""

from pathlib import Path

from emcfsys_tui.summary import num_active_jobs, summary_of
from tests.tui.conftest import made_run


def test_it_lists_a_projects_runs_and_the_queue(demo: Path) -> None:
    assert "no runs yet" in summary_of(demo)
    made_run(demo)
    told = summary_of(demo).splitlines()
    assert told[0].startswith("RUN ")
    assert told[1].startswith("run-0001")
    assert told[-1] == "No jobs."
    assert num_active_jobs() == 0


def test_where_no_project_is_it_says_how_to_make_one() -> None:
    assert "emcfsys-engine demo" in summary_of(None)
