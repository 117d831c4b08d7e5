"""One task of a run in shards: `python -m emcfsys_engine.shards.task RUN_FOLDER [SHARD]`

It does one shard by its number, or takes shard after shard that nobody else has. It goes on at the
first item that is not told of; nobody hands out, and whoever ends it loses the item under way only.
"""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from emcfsys_engine.errors import EmcfError, InputError, OutputError, printable
from emcfsys_engine.files import exit_with, is_full
from emcfsys_engine.images.outages import is_gone, wait_until, why_gone
from emcfsys_engine.run.events import Event, ImageFailed, WarningGiven
from emcfsys_engine.run.folder import open_run
from emcfsys_engine.run.shard_lines import Finished, Lines, PutBack, ShardBecame, TaskTold, Trying
from emcfsys_engine.run.shards import MOST_TRIES, Header, ShardItem, verb_of
from emcfsys_engine.shards.work import Asked, Doing, Done, Emit, Work, ref_of, work_of

_CLAIM_PATIENCE_S = 90.0  # as a keeper's on a cluster: the task before may still be ending
_LIST_PATIENCE_S = 3600.0
_ALONE_FIRST = 16  # items that a task which was ended before takes up one by one
_PR_SET_PDEATHSIG = 1


def list_of(work: Work, emit: Emit, asked: Asked) -> Header:
    """Return the list's first line; who comes first finds the items and writes the list.

    Raises: InputError without items; RunFolderError for a list that is not ours.
    """
    shards = work.shards
    if (header := shards.header()) is not None:
        return header
    lock = shards.claim_list(_LIST_PATIENCE_S)
    try:
        return shards.header() or work.write_list(emit, asked)
    finally:
        os.close(lock)


class Task:
    """Does shards in this process."""

    def __init__(self, work: Work, header: Header, asked: Asked) -> None:
        self._work, self._header, self._asked = work, header, asked

    def do(self, shard: int, patience_s: float) -> bool:
        """Do one shard to its end; False where another task has it, or somebody ends us.

        Raises: OutputError when the disk is full; what is done is kept.
        """
        shards = self._work.shards
        told = TaskTold(shards.lines_file(shard))
        if told.is_finished:
            return True
        lock = shards.claim(shard, patience_s)
        if lock is None:
            return False
        lines = Lines(shards.lines_file(shard))
        try:
            told.refresh()
            self._do(shard, told, lines)
            if self._asked() is None:
                lines.write(Finished())
            return self._asked() is None
        finally:
            lines.close()
            os.close(lock)

    def _do(self, shard: int, told: TaskTold, lines: Lines) -> None:
        every = self._work.shards.items(self._header.shards[shard])
        todo = [item for item in every if item.number not in told.became]
        if not todo:
            return
        doing = self._work.begin(self._header, shard, self._asked)
        careful = _ALONE_FIRST if told.was_begun else 0
        try:
            for item in todo[:careful]:
                if self._asked() is not None:
                    break
                if not _blamed(item, told, lines):
                    lines.write(Trying(number=item.number))
                    self._run(doing, [item], lines)
                    if self._asked() is not None:  # a request to end is no fault of the item's
                        lines.write(PutBack(number=item.number))
            self._run(doing, todo[careful:], lines)
        finally:
            doing.close()

    def _run(self, doing: Doing, items: Sequence[ShardItem], lines: Lines) -> None:
        waiting = list(items)
        while waiting and self._asked() is None:
            away: list[ShardItem] = []  # met a disk that is gone: they wait for it
            book = doing.book
            for item, result in doing.run(self._unchanged(waiting, lines)):
                if isinstance(result, Done):
                    place = lines.keep(result.result)
                    lines.write(ShardBecame(number=item.number, event=result.event, result=place))
                elif book is not None and is_gone(result, book):
                    away.append(item)
                elif isinstance(result, OutputError) and is_full(result):
                    raise result
                else:
                    _fail(item, str(result), lines)
            if away and book is not None:
                why = partial(why_gone, book)
                wait_until(why, self._asked, lambda words: print(words, flush=True))
            waiting = away

    def _unchanged(self, items: Sequence[ShardItem], lines: Lines) -> Iterator[ShardItem]:
        """Yield items whose files are as the list says; of the others it is told why not."""
        again = f"{verb_of(self._work.request)} again"
        for item in items:
            if self._asked() is not None:
                return
            read = ((str(ref_of(item)), item.image, item.size), *((f, f, n) for f, n in item.also))
            why = next((why for one in read if (why := _why_changed(*one, again))), "")
            if why:
                _fail(item, why, lines)
            else:
                yield item


def _why_changed(name: str, file: str, before: int, again: str) -> str:
    if before < 0:
        return ""
    try:
        size = os.stat(file).st_size
    except FileNotFoundError:
        return f"{name}: vanished since the list of shards was written. {again} what is left"
    except OSError:
        return ""  # reading it says why
    if size == before:
        return ""
    what = f"has {size:,} bytes, {before:,} when the list of shards was written"
    return f"{name}: {what}. {again}: the others are kept"


def _fail(item: ShardItem, reason: str, lines: Lines) -> None:
    event = ImageFailed(image=str(ref_of(item)), reason=reason)
    lines.write(ShardBecame(number=item.number, event=event))


def _blamed(item: ShardItem, told: TaskTold, lines: Lines) -> bool:
    """Tell whether an item ended its task again and again; then that is what became of it."""
    if told.tries.get(item.number, 0) < MOST_TRIES:
        return False
    what = f"{MOST_TRIES} tasks ended over it. Look at it with inspect"
    _fail(item, f"{ref_of(item)}: {what}", lines)
    return True


def tell_warning(event: Event) -> None:
    """Say a warning in the log of a task."""
    if isinstance(event, WarningGiven):
        print(printable(event.message), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Do one shard, or all that nobody else does; return the exit code."""
    folder = Path(arguments[0])
    number = int(arguments[1]) if len(arguments) > 1 else None
    if number is None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signals: list[int] = []
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(each, lambda sent, _: signals.append(sent))
    try:
        code = do_shards(folder, number, lambda: "terminated" if signals else None)
    except EmcfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:  # of its own files: the disk is full, a quota is reached, it is gone
        place = os.fsdecode(error.filename) if error.filename else folder
        what = f"{place}: {error.strerror or error}. What is done is kept"
        print(printable(what), file=sys.stderr)
        return OutputError.exit_code
    return 128 + signals[0] if signals else code


def do_shards(folder: Path, number: int | None, asked: Asked) -> int:
    """Do the shard of this number, or without one all that nobody else does.

    Raises: InputError where this machine does not see the run's folder; as the command's own work.
    """
    if not folder.is_dir():
        what = f"is not seen by {socket.gethostname()}"
        raise InputError(folder, what, "Choose an --out on a disk that all nodes share")
    work = work_of(open_run(folder))
    header = list_of(work, tell_warning, asked)
    work.beside = 1 if number is not None else work.at_once
    task = Task(work, header, asked)
    wanted = range(len(header.shards)) if number is None else range(number, number + 1)
    for shard in wanted:
        if shard < len(header.shards) and asked() is None:
            task.do(shard, 0.0 if number is None else _CLAIM_PATIENCE_S)
    return 0


if __name__ == "__main__":
    exit_with(main, sys.argv[1:])
