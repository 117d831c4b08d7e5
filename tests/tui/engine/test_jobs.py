"""Jobs as the interface lists and moves them."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.queue import Queue
from emcfsys_tui.engine.jobs import QueueReader, ask_job, move_job, ordered
from tests.tui.conftest import made_run


def test_a_reader_says_something_only_when_the_queue_changed(demo: Path, no_daemon: None) -> None:
    reader = QueueReader()
    reader.read()
    assert reader.read() is None
    with Queue.open() as queue:
        queue.add(made_run(demo, ended=False).folder, project_name="demo", gpus=0)
    told = reader.read()
    assert told is not None


def test_waiting_jobs_stand_in_their_order_and_move_by_one(demo: Path, no_daemon: None) -> None:
    with Queue.open() as queue:
        for _ in range(3):
            queue.add(made_run(demo, ended=False).folder, project_name="demo", gpus=0)
        move_job(3, -1)
        assert [job.id for job in ordered(queue.list())] == [1, 3, 2]
        assert ask_job(1, "cancel").startswith("job 1 is cancelled")
        assert [job.id for job in ordered(queue.list())] == [3, 2, 1]
    with pytest.raises(QueueError):
        move_job(1, 1)
