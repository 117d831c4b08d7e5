"""What the last step of shards gets: what all tasks told, and what they kept, in order."""

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import open_own
from emcfsys_engine.run.events import Event
from emcfsys_engine.run.shard_lines import AnyTold, Told
from emcfsys_engine.run.shards import Header, Item, Shards

_MOST_OPEN = 64  # files of results


class Tally(NamedTuple):
    """How many items were done, and how many could not be."""

    done: int
    failed: int


class Became(NamedTuple):
    """An item, what became of it, and what its task kept of it."""

    item: Item
    event: AnyTold | None
    result: bytes


@dataclass(frozen=True)
class Ended:
    """All shards, once they are finished. `tell`: passes on what became of an item, once."""

    shards: Shards
    header: Header
    told: Sequence[Told]
    tell: Callable[[AnyTold], None]
    emit: Callable[[Event], None]
    asked: Callable[[], str | None]

    def in_order(self) -> Iterator[Became]:
        """Yield all items in the order of their numbers, with what became of each.

        Raises: RunFolderError where what was kept is gone.
        """
        numbers, shards, places = array("Q"), array("L"), array("Q")
        for shard, share in enumerate(self.header.shards):
            for place, item in self.shards.places(share):
                numbers.append(item.number)
                shards.append(shard)
                places.append(place)
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        items = self.shards.items_at(places[n] for n in order)
        with _Results(self.shards) as results:
            for n, item in zip(order, items, strict=True):
                told = self.told[shards[n]]
                place = told.results.get(item.number)
                result = results.read(shards[n], *place) if place is not None else b""
                yield Became(item, told.became.get(item.number), result)


class _Results:
    """Reads what tasks kept; so many files are open that the order may leap between them."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._open: dict[int, int] = {}
        # The same command would go on with this run, and meet the same again.
        self._remedy = f"Bring it back, or remove {shards.folder.parent} and begin anew"

    def __enter__(self) -> "_Results":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:
            for descriptor in self._open.values():
                closing.callback(os.close, descriptor)

    def read(self, shard: int, place: int, length: int) -> bytes:
        """Return what was kept there. Raises: RunFolderError where it is gone."""
        file = self._shards.results_file(shard)
        try:
            if shard not in self._open:
                if len(self._open) == _MOST_OPEN:
                    os.close(self._open.pop(next(iter(self._open))))
                self._open[shard] = open_own(file, os.O_RDONLY)
            content = os.pread(self._open[shard], length, place)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            raise RunFolderError(file, what, self._remedy) from None
        if len(content) != length:
            raise RunFolderError(file, "was cut short", self._remedy)
        return content
