"""Slurm's states and reasons in words."""

import pytest

from emcfsys_engine.jobs.slurm.client import (
    PHASES,
    SlurmJob,
    is_blocked,
    is_held,
    phase_of,
    words_of,
)


def test_every_state_of_slurm_has_a_meaning_and_an_unknown_one_is_told() -> None:
    for state, phase in PHASES.items():
        seen = SlurmJob(id="7", name="x", state=state)
        assert phase_of(seen) == phase
        assert words_of(seen).startswith("Slurm 7: ")
    strange = SlurmJob(id="7", name="x", state="LEVITATING")
    assert phase_of(strange) == "lives"
    assert "LEVITATING, which this version does not know" in words_of(strange)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Resources", "waits for free nodes"),
        ("QOSMaxGRESPerUser", "waits: QOSMaxGRESPerUser"),
        ("JobHeldAdmin", "held by an administrator; release it with scontrol release 7"),
        ("launch failed requeued held", "held"),
        ("DependencyNeverSatisfied", "did not end well"),
    ],
)
def test_why_a_job_waits_is_said_in_words(reason: str, words: str) -> None:
    seen = SlurmJob(id="7", name="x", state="PENDING", reason=reason)
    assert words in words_of(seen)
    assert is_held(seen) == ("held" in reason.lower())
    assert is_blocked(seen) == (reason == "DependencyNeverSatisfied")
