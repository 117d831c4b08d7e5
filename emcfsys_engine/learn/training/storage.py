"""Where a training's arrays lie when memory is short: in a file without a name, or on its GPU.

N patches, M pixels of a crop."""

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from emcfsys_engine.files import file_system_of, is_network
from emcfsys_engine.learn.device import gpu_share
from emcfsys_engine.learn.faults import free_cached_memory, is_out_of_memory
from emcfsys_engine.learn.pixels_on_device import OWN_TYPES, Crops, PerChannel, uploaded
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.settings import cache_home

_SHARE = 0.08  # of the GPU's memory: the plan leaves it free (memory.usable_memory)
_AT_ONCE = 1 << 24  # pixels whose numbers, 8 bytes each, are held while they are cut
_TYPES = (*OWN_TYPES, np.dtype(np.float32))


class Lines(NamedTuple):
    """Which lines of which images a step's crops are of; one that lies outside is ~ its mirror.

    Shapes: lines 2×N×M int64: where rows begin among all pixels, and columns; statistics N×C×4
    float32.
    """

    lines: Tensor
    statistics: Tensor

    def pinned(self) -> "Lines":
        """Return the same in memory that a GPU fetches by itself."""
        return Lines(*(each.pin_memory() for each in self))


class Resident:
    """Pixels and labels of all images, one image after the other, in memory of the device.

    Shapes: of all pixels together, C channels one after the other, uint8, float32, or int16 that
    stands for uint16, and K planes of labels, uint8.
    """

    def __init__(
        self, pixels: Tensor, labels: Tensor, sizes: list[tuple[int, int]], kind: torch.dtype
    ) -> None:
        self._pixels = pixels
        self._labels = labels
        self._kind = kind
        self._sizes = np.asarray(sizes)
        areas = self._sizes.prod(axis=1, dtype=np.int64)
        self._starts = np.concatenate(([0], areas.cumsum()[:-1]))

    def lines(self, places_N3: np.ndarray, crop_px: int, statistics: list[PerChannel]) -> Lines:
        """Return the lines of crops: places are image, first row and first column.

        Shapes: places are N×3 int64.
        """
        image, across = places_N3[:, 0], np.arange(crop_px)
        rows, columns = (
            _numbered(places_N3[:, axis, None] + across, self._sizes[image, axis - 1, None])
            for axis in (1, 2)
        )
        begins = rows.inside * self._sizes[image, 1, None] + self._starts[image, None]
        made = np.stack(
            [
                np.where(rows.outside, ~begins, begins),
                np.where(columns.outside, ~columns.inside, columns.inside),
            ]
        )
        return Lines(torch.from_numpy(made), torch.tensor(statistics, dtype=torch.float32))

    def cut(self, wanted: Lines) -> Crops:
        """Return the crops, on the device; the host does not wait for it."""
        device = self._pixels.device
        lines, statistics = (each.to(device, non_blocking=True) for each in wanted)
        outside = lines < 0
        lines = torch.where(outside, ~lines, lines)
        some = max(1, _AT_ONCE // lines.shape[-1] ** 2)
        images: list[Tensor] = []
        labels: list[Tensor] = []
        for (begins, columns), (above, beside) in zip(
            lines.split(some, 1), outside.split(some, 1), strict=True
        ):
            where_NMM = begins[:, :, None] + columns[:, None]
            channels = [plane.take(where_NMM) for plane in self._pixels]
            images.append(torch.stack(channels, dim=1) if channels[1:] else channels[0][:, None])
            is_outside_NMM = above[:, :, None] | beside[:, None]
            marks = [
                plane.take(where_NMM).masked_fill_(is_outside_NMM, UNLABELLED)
                for plane in self._labels
            ]
            labels.append(torch.stack(marks, dim=1) if marks[1:] else marks[0])
        return Crops(_joined(images).view(self._kind), _joined(labels), statistics)


class _Numbered(NamedTuple):
    inside: np.ndarray
    outside: np.ndarray


def _numbered(lines: np.ndarray, size: np.ndarray) -> _Numbered:
    """Return line numbers mirrored into the image, and which were outside."""
    period = np.maximum(1, 2 * (size - 1))
    folded = np.abs(lines) % period
    inside = np.where(folded < size, folded, period - folded)
    return _Numbered(inside, inside != lines)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def fits(num_pixels: int, kind: np.dtype, bytes_px: int, device: torch.device) -> bool:
    """Tell whether so many pixels and their labels may live on the device."""
    if device.type != "cuda" or kind not in _TYPES:
        return False
    total = torch.cuda.get_device_properties(device).total_memory * gpu_share()
    return num_pixels * bytes_px <= _SHARE * total


def resident(
    items: Iterable[tuple[np.ndarray, np.ndarray]],
    sizes: list[tuple[int, int]],
    kind: np.dtype,
    device: torch.device,
    channels: int = 1,
    label_planes: int = 1,
) -> Resident | None:
    """Bring the pixels and labels of images to the device; None: another program has the memory.

    Shapes: pixels H×W×C, all of one type: uint8, uint16 or float32; labels K×H×W uint8.
    """
    # Not all operations of a GPU know uint16: its bits travel as int16.
    stored = torch.int16 if kind == np.uint16 else torch.from_numpy(np.empty(0, kind)).dtype
    number = sum(height * width for height, width in sizes)
    try:
        pixels = torch.empty((channels, number), dtype=stored, device=device)
        marks = torch.empty((label_planes, number), dtype=torch.uint8, device=device)
        first = 0
        for image, labels in items:
            num = labels[0].size
            own = slice(first, first + num)
            flat = torch.from_numpy(image.reshape(-1, channels))
            pixels[:, own] = uploaded(flat.view(stored), device).T
            marks[:, own] = uploaded(torch.from_numpy(labels.reshape(label_planes, -1)), device)
            first += num
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        as_it_is = torch.uint16 if kind == np.uint16 else stored
        return Resident(pixels, marks, sizes, as_it_is)
    free_cached_memory()
    return None


# Arrays that are too many for the memory, in a file without a name: it goes with the process.
#
# The system keeps in memory what of it is read often, and lets go of it when others need the room.

_PART_BYTES = 4 << 30  # of a file, mapped at once: few files are open, however many arrays
_LEAVE_BYTES = 2 << 30  # of the disk to others
_ALIGN = 64


def spool_folder() -> Path:
    """Return where such files lie: in the user's cache, where that is on a disk of this machine."""
    cache = cache_home()
    if is_network(file_system_of(cache)):
        return Path(tempfile.gettempdir()) / f"emcfsys-{os.getuid()}" / "images"
    return cache / "images"


def make_spool_folder(folder: Path) -> None:
    """Make the folder, for us alone.

    Raises: OSError; PermissionError where somebody else made it, or the one above it, before us:
    whoever owns a folder in the common one for temporary files changes what we read back.
    """
    for place in (folder.parent, folder):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.stat().st_uid not in (os.geteuid(), place.parent.stat().st_uid):
            raise PermissionError(errno.EPERM, "belongs to another user", str(place))


class ArrayFile:
    """Writes arrays one after the other into an open file."""

    def __init__(self, stream: IO[bytes], folder: Path) -> None:
        self._stream, self._folder = stream, folder
        self.used = 0  # bytes

    def write(self, array: np.ndarray) -> int:
        """Write an array in C order; return its first byte.

        Written, not copied into a map: a disk that is full tells so, and does not kill.
        Shapes: any, of any dtype.
        Raises: OSError; also where little room would be left on the disk.
        """
        if shutil.disk_usage(self._folder).free < array.nbytes + _LEAVE_BYTES:
            raise OSError("little room is left on the disk")
        first = self.used
        self._stream.seek(first)
        self._stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._stream.flush()
        self.used += -(-array.nbytes // _ALIGN) * _ALIGN
        return first


class Spool:
    """Takes arrays one after the other; those that are given back read from the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: ArrayFile | None = None
        self._mapped = np.empty(0, np.uint8)
        self._is_full = False

    def keep(self, array: np.ndarray) -> np.ndarray | None:
        """Return the same array, in the file; None: there is no room for it on the disk.

        It may be written into, which nobody else sees.
        Shapes: any, dtype kept.
        """
        if self._is_full:
            return None
        try:
            place = self._written(array)
        except OSError:  # a full disk, a folder that is not ours
            self._is_full = True
            return None
        return place.view(array.dtype).reshape(array.shape)

    def _written(self, array: np.ndarray) -> np.ndarray:
        size = array.nbytes
        if self._file is None or self._file.used + size > len(self._mapped):
            self._file = self._begun(max(_PART_BYTES, size))
        first = self._file.write(array)
        return self._mapped[first : first + size]

    def _begun(self, size: int) -> ArrayFile:
        make_spool_folder(self._folder)
        stream = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - as long as we are
        weakref.finalize(self, stream.close)  # its map keeps the content
        os.truncate(stream.fileno(), size)
        self._mapped = np.memmap(stream, np.uint8, "r+", shape=(size,))
        return ArrayFile(stream, self._folder)
