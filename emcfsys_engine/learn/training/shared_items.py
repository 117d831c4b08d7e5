"""The images of a training that several processes of one machine share: each reads a part of them.

What a process read lies in a file of its own, which all map; it has no name any more when the first
step is made, so that nothing is left of it, however the training ends. The system holds it in
memory once, whatever the number of processes.
"""

import contextlib
import fcntl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from emcfsys_engine.dataset.deals import Fingerprint
from emcfsys_engine.errors import DataFaults
from emcfsys_engine.learn.training.dataset import Dataset, TrainingItem
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.storage import ArrayFile, make_spool_folder, spool_folder

_PREFIX = "shared-"


class _Lies(msgspec.Struct, array_like=True, frozen=True):
    """Where an array lies in its file."""

    first: int
    dtype: str
    shape: tuple[int, ...]


class _Told(msgspec.Struct, array_like=True, frozen=True):
    """What a process tells the others; items by data set and place in it."""

    file: str
    items: dict[tuple[int, int], msgspec.Raw]
    prints: dict[str, Fingerprint]
    faults: list[tuple[str, str, str]]


def read_together(datasets: Sequence[Dataset], ranks: Ranks) -> dict[str, Fingerprint]:
    """Read every item once, so that a bad file ends the run before its first step.

    Returns what tells, by its name, whether an image or its labels changed.
    Raises: DataFaults with every fault at once, in every process.
    """
    if ranks.local_world == 1:
        checked = [dataset.check() for dataset in datasets]
        return {name: one for prints in checked for name, one in prints.items()}
    with _Writer() as writer:
        own = msgspec.msgpack.encode(_read_share(datasets, ranks, writer))
        everybody = [msgspec.msgpack.decode(one, type=_Told) for one in ranks.gathered_bytes(own)]
        if faults := [words for one in everybody for words in one.faults]:
            raise DataFaults.of_words(faults)
        first = ranks.rank - ranks.local_rank
        here = everybody[first : first + ranks.local_world]  # of this machine
        for told in here:
            _take(told, datasets)
        ranks.wait()  # all have mapped it: its name may go
    return {name: one for told in here for name, one in told.prints.items()}


def _read_share(datasets: Sequence[Dataset], ranks: Ranks, writer: "_Writer") -> _Told:
    told = _Told(writer.file, {}, {}, [])
    for number, dataset in enumerate(datasets):

        def keep(index: int, item: TrainingItem, number: int = number) -> None:
            written = writer.encoded(item)
            if written is not None:
                told.items[number, index] = msgspec.Raw(written)

        share = range(ranks.local_rank, len(dataset), ranks.local_world)
        try:
            told.prints.update(dataset.check(share, keep))
        except DataFaults as several:
            told.faults.extend(several.words())
    return told


def _take(told: _Told, datasets: Sequence[Dataset]) -> None:
    """Let the data sets have what a process has written, as far as this one can map it."""
    try:  # "c": who writes into an array changes only his own
        mapped = np.memmap(told.file, np.uint8, "c") if told.items else None
    except (OSError, ValueError):  # a folder that this process does not see: it reads for itself
        return

    def array(_: type, lies: Any) -> np.ndarray:
        assert mapped is not None
        place = msgspec.convert(lies, _Lies)
        dtype = np.dtype(place.dtype)
        size = int(np.prod(place.shape)) * dtype.itemsize
        return mapped[place.first : place.first + size].view(dtype).reshape(place.shape)

    for (number, index), content in told.items.items():
        datasets[number].take(
            index, msgspec.msgpack.decode(content, type=TrainingItem, dec_hook=array)
        )


class _Writer:
    """Writes the arrays of items into a file; its name goes with the `with` block."""

    def __init__(self) -> None:
        self.file = ""
        self._stream: IO[bytes] | None = None
        self._arrays: ArrayFile | None = None  # None: no room, or no folder of ours

    def __enter__(self) -> "_Writer":
        folder = spool_folder()
        try:
            make_spool_folder(folder)
            _remove_left(folder)
            # Named when it is locked: until then another process would take it for left over.
            self._stream = tempfile.NamedTemporaryFile(dir=folder, delete=False)
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made = Path(self._stream.name)
            self.file = str(made.rename(folder / f"{_PREFIX}{made.name}"))
        except OSError:  # everybody reads for himself
            return self
        self._arrays = ArrayFile(self._stream, folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            Path(self.file or self._stream.name).unlink(missing_ok=True)
            self._stream.close()

    def encoded(self, item: TrainingItem) -> bytes | None:
        """Write an item's arrays; return the rest, and where they lie. None: the disk is full."""
        if self._arrays is not None:
            try:
                return msgspec.msgpack.encode(item, enc_hook=self._lies)
            except OSError:
                self._arrays = None
        return None

    def _lies(self, array: Any) -> _Lies:
        assert isinstance(array, np.ndarray) and self._arrays is not None
        return _Lies(self._arrays.write(array), array.dtype.str, array.shape)


def _remove_left(folder: Path) -> None:
    """Remove what processes left that were killed while they read."""
    for file in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
