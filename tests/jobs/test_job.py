"""States of a job, the moves between them, and its way through JSON."""

import msgspec

from emcfsys_engine.jobs.job import MOVES, OPEN, STATES, Job, sources
from tests.jobs.made import job_with


def test_moves_lead_only_to_states_and_every_state_can_be_reached() -> None:
    assert all(set(targets) <= set(STATES) for targets in MOVES.values())
    assert all(sources(state) for state in STATES)
    assert all(MOVES[state] for state in OPEN)
    assert MOVES["done"] == ()


def test_job_survives_json() -> None:
    job = job_with(1, after=(3, 4), gpu_ids=("GPU-1",))
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
