"""Read ahead, compute, write behind: three stages with bounded queues, results in order.

The device never waits for the disk: files are read (and decoded, and normalised) in threads while
the network works, and masks are encoded and written in a thread behind it.
"""

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


def run_pipeline(
    jobs: Iterable[Job],
    read: Callable[[Job], Read],
    compute: Callable[[Job, Read], Made],
    write: Callable[[Job, Made], Written],
    catch: tuple[type[Exception], ...],
) -> Iterator[tuple[Job, Written | Failure[Job]]]:
    """Yield each job with what `write` returned, or with the error of any stage, in order.

    `compute` runs in the caller's thread. Errors that are not in `catch` end the pipeline.
    A caller that stops asking ends it, too: what is under way is finished first.
    """
    waiting: deque[tuple[Job, Future[Read]]] = deque()
    behind: deque[tuple[Job, Future[Written] | Failure[Job]]] = deque()
    with (
        ThreadPoolExecutor(_READERS, "read") as readers,
        ThreadPoolExecutor(1, "write") as writer,
    ):
        source = iter(jobs)
        while True:
            for job in source:
                waiting.append((job, readers.submit(read, job)))
                if len(waiting) >= _AHEAD:
                    break
            if not waiting:
                break
            job, future = waiting.popleft()
            try:
                made = compute(job, future.result())
            except catch as error:
                behind.append((job, Failure(job, error)))
            else:
                behind.append((job, writer.submit(write, job, made)))
            while len(behind) > _BEHIND:
                yield _settled(*behind.popleft(), catch)
        while behind:
            yield _settled(*behind.popleft(), catch)


def _settled(
    job: Job, result: "Future[Written] | Failure[Job]", catch: tuple[type[Exception], ...]
) -> tuple[Job, Written | Failure[Job]]:
    if isinstance(result, Failure):
        return job, result
    try:
        return job, result.result()
    except catch as error:
        return job, Failure(job, error)
