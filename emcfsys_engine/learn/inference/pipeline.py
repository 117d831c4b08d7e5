"""Read ahead, compute, write behind: three stages with bounded queues, results in order.

The device never waits for the disk: files are read (and decoded, and normalised) in threads while
the network works, and masks are encoded and written in a thread behind it.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Job = TypeVar("Job")
Read = TypeVar("Read")
Made = TypeVar("Made")
Written = TypeVar("Written")

_READERS = 2
_AHEAD = 3  # files read before their turn
_BEHIND = 3  # results not yet written
_SWITCH_S = 0.0005  # Python's own is 0.005


def read_ahead(source: Iterator[Read]) -> Iterator[Read]:
    """Yield what a source yields, one item ahead: it is made in a thread."""
    with ThreadPoolExecutor(1, "ahead") as reader:
        future = reader.submit(next, source, None)
        while (item := future.result()) is not None:
            future = reader.submit(next, source, None)
            yield item


class Behind:
    """Does one thing after another in a thread; the caller is let ahead by a few of them only."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "behind")
        self._under_way: deque[Future[None]] = deque()

    def do(self, work: Callable[[], None]) -> None:
        """Do it soon.

        Raises: what an earlier one raised.
        """
        self._under_way.append(self._worker.submit(work))
        while len(self._under_way) > _BEHIND:
            self._under_way.popleft().result()

    def finish(self) -> None:
        """Wait for all of it.

        Raises: what the first one that failed raised.
        """
        try:
            while self._under_way:
                self._under_way.popleft().result()
        finally:
            self._worker.shutdown()


class Failure(Generic[Job]):
    """What went wrong with one job; the others go on."""

    def __init__(self, job: Job, error: Exception) -> None:
        self.job = job
        self.error = error


Arrived = Iterator[tuple[Job, Read | Failure[Job]]]
Computed = Iterator[tuple[Job, Made | Failure[Job]]]


def run_pipeline(
    jobs: Iterable[Job],
    read: Callable[[Job], Read],
    compute: Callable[[Arrived[Job, Read]], Computed[Job, Made]],
    write: Callable[[Job, Made], Written],
    catch: tuple[type[Exception], ...],
    *,
    ahead: Callable[[], int] = lambda: _AHEAD,
    writers: int = 1,
) -> Iterator[tuple[Job, Written | Failure[Job]]]:
    """Yield each job with what `write` returned, or with the error of any stage, in order.

    `compute` runs in the caller's thread: it takes jobs with what was read of them, or why that
    failed, one after the other, and yields them in the same order. Errors that are not in `catch`
    end the pipeline. A caller that stops asking ends it, too: what is under way is finished first.
    `ahead`: how many may be read before their turn, and be made before they are written.
    """
    behind: deque[tuple[Job, Future[Written] | Failure[Job]]] = deque()
    # What feeds the device asks for the interpreter at each of its thousands of kernels, and waits
    # so long for it where another thread is in the middle of something.
    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_S))
    with (
        ThreadPoolExecutor(max(_READERS, _cores() // 4), "read") as pool,
        ThreadPoolExecutor(writers, "write") as writer,
    ):
        for job, made in compute(_arrived(jobs, read, pool, catch, ahead)):
            failed = isinstance(made, Failure)
            behind.append((job, made if failed else writer.submit(write, job, made)))
            while behind and (len(behind) > max(_BEHIND, ahead()) or _is_done(behind[0][1])):
                yield _settled(*behind.popleft(), catch)
        while behind:
            yield _settled(*behind.popleft(), catch)


def several_writers() -> int:
    """Return how many threads may write at a time beside what computes and reads."""
    return max(1, min(8, _cores() // 4))


def _arrived(
    jobs: Iterable[Job],
    read: Callable[[Job], Read],
    pool: ThreadPoolExecutor,
    catch: tuple[type[Exception], ...],
    ahead: Callable[[], int],
) -> Arrived[Job, Read]:
    """Yield jobs with what was read of them, in order; a few more are read meanwhile."""
    waiting: deque[tuple[Job, Future[Read]]] = deque()
    source = iter(jobs)
    while True:
        while len(waiting) < ahead():
            job = next(source, None)
            if job is None:
                break
            waiting.append((job, pool.submit(read, job)))
        if not waiting:
            return
        yield _settled(*waiting.popleft(), catch)


def _is_done(result: "Future[Written] | Failure[Job]") -> bool:
    return isinstance(result, Failure) or result.done()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _settled(
    job: Job, result: "Future[Written] | Failure[Job]", catch: tuple[type[Exception], ...]
) -> tuple[Job, Written | Failure[Job]]:
    if isinstance(result, Failure):
        return job, result
    try:
        return job, result.result()
    except catch as error:
        return job, Failure(job, error)
