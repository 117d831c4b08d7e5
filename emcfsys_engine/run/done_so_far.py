"""What a prediction has done so far: the image done last, and the regions of its large images."""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import next_lines, reading_own
from emcfsys_engine.regions import Mosaic, Region
from emcfsys_engine.run.events import EventReader, ImageDone, RegionDone
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shard_lines import Became, Line
from emcfsys_engine.run.shards import Shards

_IMAGE, _REGION = b'"kind":"image_done"', b'"kind":"region_done"'


class DoneSoFar:
    """Follows a prediction; `look` reads what is new, and nothing twice.

    What tasks of a prediction in shards tell is read from their own files: on a cluster its run
    says nothing before they have ended.
    """

    def __init__(self, run: Run) -> None:
        self.mosaics: tuple[Mosaic, ...] = ()
        self.newest: ImageDone | None = None
        self.num_images = 0
        self._regions: dict[str, dict[Region, None]] = {}  # by image, in the order they were done
        self._shards = Shards(run)
        self._events = EventReader(run.events_file)
        self._read_to: dict[str, int] = {}
        self._has_list = False

    def regions(self, image: str) -> tuple[Region, ...]:
        """Return the regions of a large image that are done."""
        return tuple(self._regions.get(image, ()))

    def look(self) -> bool:
        """Read on; tell whether anything is new.

        Raises: RunFolderError for a damaged list of shards, OSError.
        """
        if not self._has_list and (header := self._shards.header()) is not None:
            self.mosaics, self._has_list = header.mosaics, True
        if self._has_list:
            return sum(map(self._read, self._grown())) > 0
        done = [event for event in self._events.read_new() if isinstance(event, ImageDone)]
        for event in done:
            self._take(event)
        return bool(done)

    def _grown(self) -> list[Path]:
        with os.scandir(self._shards.folder) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(".jsonl")
                and entry.name != self._shards.file.name
                and entry.stat().st_size > self._read_to.get(entry.name, 0)
            ]

    def _read(self, file: Path) -> bool:
        is_new = False
        with suppress(FileNotFoundError), reading_own(file) as stream:
            stream.seek(self._read_to.get(file.name, 0))
            while block := next_lines(stream):
                images = [line for line in block.splitlines() if _IMAGE in line]
                wanted = [line for line in block.splitlines() if _REGION in line] + images[-1:]
                self.num_images += max(0, len(images) - 1)  # the last of them is looked into
                for line in wanted:
                    with suppress(msgspec.MsgspecError):  # torn by a kill
                        told = any_names.decode(line, Line)
                        if isinstance(told, Became):
                            self._take(told.event)
                is_new |= bool(wanted)
            self._read_to[file.name] = stream.tell()
        return is_new

    def _take(self, event: object) -> None:
        if isinstance(event, RegionDone):
            self._regions.setdefault(event.image, {})[Region(*event.region)] = None
        elif isinstance(event, ImageDone):
            self.num_images += 1
            if self.newest is None or event.time >= self.newest.time:
                self.newest = event
