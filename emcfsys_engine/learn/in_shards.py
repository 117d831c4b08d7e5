"""Executes a run in shards, whatever its command: torch is imported only where that needs it."""

from emcfsys_engine.learn.run_context import RunContext, emit_ending
from emcfsys_engine.run.events import RunFinished
from emcfsys_engine.shards.runner import run_all
from emcfsys_engine.shards.work import work_of


def execute(worker: RunContext) -> int:
    """Do what run.json names; return 1 when an item failed.

    Raises: InputError where another run does the same; RunFailedError when tasks end in vain.
    """
    work = work_of(worker.run)
    tally = run_all(worker, work)
    if tally is None:
        why = worker.stop_request() or "cancel"
        return emit_ending(worker, "stopped" if why == "stop" else why)
    ended = RunFinished(reason="done", done=tally.done, failed=tally.failed, called=work.called)
    worker.emit_when_possible(ended)
    return 1 if tally.failed else 0
