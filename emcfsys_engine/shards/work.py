"""What a command brings to the road of shards: its items, how one is done, what comes last."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.run.events import Event
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shard_lines import AnyTold
from emcfsys_engine.run.shards import Header, Item, Shards, refuse_other_models
from emcfsys_engine.shards.ended import Ended, Tally

Emit = Callable[[Event], None]
Asked = Callable[[], str | None]  # how we were asked to end; None: we were not
_WORKS = {
    "predict": "emcfsys_engine.learn.inference.shards",
    "evaluate": "emcfsys_engine.learn.evaluate_shards",
    "measure": "emcfsys_engine.tools.measure.in_shards",
    "convert": "emcfsys_engine.tools.convert.in_shards",
}


class Done(NamedTuple):
    """What is told of an item that its command settled; `result` is kept for the last step."""

    event: AnyTold
    result: bytes = b""


class Doing(Protocol):
    """The items of one shard under way in one task."""

    @property
    def book(self) -> OutputBook | None:
        """What the task writes into the output folder; None where items write no files."""
        ...

    def run(self, items: Iterator[Item]) -> Iterator[tuple[Item, Done | Exception]]:
        """Yield each item with what became of it; it may read ahead."""
        ...

    def close(self) -> None:
        """Put on the disk what is not there yet."""
        ...


class Work(ABC):
    """One command in shards, as each of its processes sees it."""

    called = "images"  # what its items are to a person

    def __init__(self, run: Run) -> None:
        self.run = run
        self.shards = Shards(run)
        self.request: Any = run.record().request  # of the command's own kind
        self.beside = 1  # so many tasks share this machine

    @abstractmethod
    def write_list(self, emit: Emit, asked: Asked) -> Header:
        """Find all items and write the list; only one process at a time does.

        Raises: InputError where there is nothing to do.
        """

    @abstractmethod
    def begun(self, header: Header) -> Sequence[Event]:
        """Return what is told first: that the run began, then warnings."""

    @abstractmethod
    def begin(self, header: Header, shard: int, asked: Asked) -> Doing:
        """Begin with one shard; what all shards of a task need is made once."""

    @abstractmethod
    def put_together(self, end: Ended) -> Tally:
        """Write what concerns all items together, once all are told of; only one process does.

        Killed at any point it is called again.
        """

    def refuse_changed(self, header: Header) -> None:
        """Check what all items are done with.

        Raises: InputError if it is not as it was when the list was written.
        """
        refuse_other_models(header, self.request)

    @property
    def at_once(self) -> int:
        """How many tasks this machine runs at a time."""
        return tasks_at_once(self.request)

    def environments(self, number: int) -> Sequence[Mapping[str, str]]:
        """Return what each of several tasks gets as its environment."""
        return [os.environ]


def tasks_at_once(request: Any) -> int:
    """Return how many tasks of a request this machine runs at a time: one a processor."""
    return request.shards_at_once or len(os.sched_getaffinity(0))


def work_of(run: Run) -> Work:
    """Return what the command of a run brings.

    Raises: RunFolderError for a run that is of no command in shards.
    """
    does = run.record().request.__struct_config__.tag
    if does not in _WORKS:
        raise RunFolderError(run.record_file, f"a {does} run has no shards", "Start it anew")
    work: Work = import_module(_WORKS[str(does)]).work_of(run)
    return work


def ref_of(item: Item) -> ImageRef:
    """Return the image of an item."""
    return ImageRef(path=Path(item.image), plane=item.plane)
