"""Images and labels in memory, and patches drawn from them: step n of a seed is always the same.

N patches, C channels, H and W pixels, M pixels of a crop (a patch and the margin for its warp).
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.dataset.deals import Fingerprint
from emcfsys_engine.dataset.objects import (
    NUM_PLANES,
    ObjectTruth,
    read_objects,
    targets_of,
    truth_at,
)
from emcfsys_engine.dataset.samples import Sample, read_labels
from emcfsys_engine.errors import DataFaults, InputError
from emcfsys_engine.images.normalise import GREY, Normaliser, is_in_colour, read_as, to_grey
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.pixels_on_device import (
    AS_THEY_ARE,
    OWN_TYPES,
    Crops,
    PerChannel,
    normalised,
    statistics_to_use,
    uploaded,
)
from emcfsys_engine.learn.training.augment import MARGIN
from emcfsys_engine.learn.training.storage import Resident, Spool, fits, resident, spool_folder
from emcfsys_engine.memory_limit import memory_bytes
from emcfsys_engine.project import UNLABELLED, Project

_MEMORY_SHARE = 0.4  # of the machine's memory, for decoded images
_POSITIONS = 2048  # remembered pixels of each class and image


@dataclass(frozen=True, kw_only=True)
class TrainingItem:
    """One micrograph ready for the network.

    Shapes: pixels are H×W×C, uint8 or uint16 as the camera gave them, or float32 and normalised;
    labels are H×W uint8 class indices or 255.
    """

    pixels: np.ndarray
    labels: np.ndarray
    pixel_nm: tuple[float, float] | None
    raw_mean: float  # of the grey values before normalisation, for the quality guard
    raw_deviation: float
    statistics: PerChannel = AS_THEY_ARE  # by which pixels of the camera's type are normalised
    is_in_colour: bool = False  # in its file: grey is used three times by a network that wants it
    truth: ObjectTruth | None = None  # of a project that tells objects apart
    targets: np.ndarray | None = None  # distance and border of its objects: uint8 2×H×W
    info_bar_rows: int = 0

    @property
    def planes(self) -> np.ndarray:
        """Labels, with the objects' distance and border where they are known.

        Shapes: uint8 K×H×W, K = 1 or 3.
        """
        labels = self.labels[None]
        return labels if self.targets is None else np.concatenate((labels, self.targets))

    @property
    def image(self) -> np.ndarray:
        """The image as the network sees it. Shapes: H×W×C float32."""
        return normalised(torch.from_numpy(self.pixels), self.statistics).numpy()

    def rows_on(self, first: int, last: int, device: torch.device) -> Tensor:
        """Return rows of it, normalised on the device. Shapes: C×(last - first)×W float32."""
        raw = uploaded(torch.from_numpy(self.pixels[first:last]), device)
        return normalised(raw, self.statistics).movedim(-1, 0)


def load_item(
    sample: Sample,
    project: Project,
    normaliser: Normaliser,
    prints: dict[str, Fingerprint] | None = None,
    channels: int = GREY,
) -> TrainingItem:
    """Read a micrograph and its labels; resample both if the project asks for one pixel size.

    `channels`: 3 keeps colours. `prints` gets what tells whether image or labels changed, by the
    sample's name.
    Raises: ImageError, AnnotationError and the like, naming the file.
    """
    micrograph = read_micrograph(sample.image)
    pixels = read_as(micrograph.pixels, channels)
    bar = micrograph.info_bar_rows
    values = read_labels(sample, project, pixels.shape[:2])
    if bar:
        values[-bar:] = UNLABELLED
    truth = read_objects(sample, project, values) if project.instances else None
    labels = to_indices(values, project)
    grey = pixels if channels == GREY else to_grey(micrograph.pixels)
    greys = normaliser.statistics(grey, bar)
    found = (greys,) if channels == GREY else normaliser.per_channel(pixels, bar)
    if prints is not None:
        image = _digest(pixels) if any(one[3] for one in found) else ""
        drawn = _digest(labels) + (_digest(truth.ids) if truth is not None else "")
        prints[sample.name] = Fingerprint(image=image, labels=drawn)
    as_it_is = pixels.dtype in OWN_TYPES
    pixels = pixels if as_it_is else normaliser.apply_all(pixels, found)
    pixels = np.require(pixels, requirements=("C", "W"))  # as torch wants it
    item = TrainingItem(
        pixels=pixels if pixels.ndim == 3 else pixels[..., None],
        labels=labels,
        pixel_nm=micrograph.pixel_nm or project.pixel_told,
        raw_mean=greys[2],
        raw_deviation=greys[3],
        statistics=statistics_to_use(found) if as_it_is else AS_THEY_ARE,
        is_in_colour=channels != GREY and is_in_colour(micrograph.pixels),
        truth=truth,
        info_bar_rows=bar,
    )
    item = resampled(item, project.project.pixel_nm)
    truth = item.truth
    return replace(item, targets=targets_of(truth.ids, item.labels)) if truth else item


def _digest(pixels: np.ndarray) -> str:
    """Return a name for an array's content: the same wherever and under whatever name it lies."""
    made = hashlib.blake2b(f"{pixels.shape} {pixels.dtype.str}".encode(), digest_size=12)
    made.update(np.ascontiguousarray(pixels).view(np.uint8).data)
    return made.hexdigest()


def to_indices(values_HW: np.ndarray, project: Project) -> np.ndarray:
    """Return class values as indices into `project.class_names`; 255 stays unlabelled.

    Shapes: H×W uint8 in and out.
    """
    table = np.full(256, UNLABELLED, np.uint8)
    for index, value in enumerate(project.class_values):
        table[value] = index
    return table[values_HW]


def resampled(item: TrainingItem, pixel_nm: float | None) -> TrainingItem:
    """Return the item at the project's pixel size, where its own is known and differs by 2 %.

    Labels gain no value that was not there; making an image smaller averages: nothing aliases.
    """
    if pixel_nm is None or item.pixel_nm is None:
        return item
    factors = [own / pixel_nm for own in item.pixel_nm]
    if all(abs(factor - 1) < 0.02 for factor in factors):
        return item
    size = [max(1, round(n * f)) for n, f in zip(item.labels.shape, factors, strict=True)]
    image_NCHW = torch.from_numpy(item.image).movedim(-1, 0)[None]
    image_NCHW = F.interpolate(image_NCHW, size=size, mode="bilinear", antialias=True)
    labels_NCHW = torch.from_numpy(item.labels)[None, None]
    labels_NCHW = F.interpolate(labels_NCHW, size=size, mode="nearest-exact")
    return replace(
        item,
        pixels=image_NCHW[0].movedim(0, -1).numpy(),
        statistics=AS_THEY_ARE,
        labels=labels_NCHW[0, 0].numpy(),
        truth=None if item.truth is None else truth_at(item.truth, (size[0], size[1])),
        pixel_nm=(pixel_nm, pixel_nm),
        info_bar_rows=round(item.info_bar_rows * factors[0]),
    )


class Dataset:
    """The items of some samples: kept in memory while they fit, else in a file on this disk.

    Where that is full, too, they are read again.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        project: Project,
        normaliser: Normaliser,
        processes: int = 1,  # on this machine, each with images in memory of its own
        channels: int = GREY,  # 3: of a network that reads colours
    ) -> None:
        self.samples = tuple(samples)
        self.project = project
        self.normaliser = normaliser
        self.channels = channels
        self.grey: set[str] = set()  # images read so far that have no colours in their files
        self._kept: dict[int, TrainingItem] = {}
        self._free_bytes = int(memory_bytes()[0] * _MEMORY_SHARE / processes)
        self._spool = Spool(spool_folder())

    def renewed(self, samples: Sequence[Sample], items: Mapping[str, TrainingItem]) -> "Dataset":
        """Return the items of other samples: those given, by name, and what is here of the rest."""
        other = Dataset(samples, self.project, self.normaliser, channels=self.channels)
        other._spool, other._free_bytes = self._spool, self._free_bytes
        here = {one.name: self._kept.get(n) for n, one in enumerate(self.samples)}
        for index, one in enumerate(samples):
            if one.name in items:
                other._keep(index, items[one.name])
            elif (item := here.get(one.name)) is not None:
                other._kept[index] = item
        return other

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> TrainingItem:
        item = self._kept.get(index)
        return self._keep(index, self._loaded(index)) if item is None else item

    def _loaded(self, index: int, prints: dict[str, Fingerprint] | None = None) -> TrainingItem:
        sample = self.samples[index]
        return load_item(sample, self.project, self.normaliser, prints, self.channels)

    def take(self, index: int, item: TrainingItem) -> None:
        """Have an item that takes no memory of this process."""
        self._kept[index] = item
        self._look_at_colours(index, item)

    def _look_at_colours(self, index: int, item: TrainingItem) -> None:
        if not item.is_in_colour:
            self.grey.add(self.samples[index].name)

    def _keep(self, index: int, item: TrainingItem) -> TrainingItem:
        self._look_at_colours(index, item)
        size = item.pixels.nbytes + item.labels.nbytes
        if item.truth is not None and item.targets is not None:
            size += item.truth.ids.nbytes + item.targets.nbytes
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._kept[index] = item
        elif (spooled := self._spooled(item)) is not None:
            item = self._kept[index] = spooled
        return item

    def _spooled(self, item: TrainingItem) -> TrainingItem | None:
        """Return the item as it is read from a file of this process; None: the disk is full."""
        pixels = self._spool.keep(item.pixels)
        labels = None if pixels is None else self._spool.keep(item.labels)
        if pixels is None or labels is None:
            return None
        item = replace(item, pixels=pixels, labels=labels)
        if item.truth is None or item.targets is None:
            return item
        ids, targets = self._spool.keep(item.truth.ids), self._spool.keep(item.targets)
        if ids is None or targets is None:
            return None
        return replace(item, truth=replace(item.truth, ids=ids), targets=targets)

    def check(
        self,
        indices: Iterable[int] | None = None,
        keep: Callable[[int, TrainingItem], object] | None = None,
    ) -> dict[str, Fingerprint]:
        """Read every item once, so that a bad file ends the run before its first step.

        `keep` takes each item and its index; the data set keeps them where nothing is said.
        Returns what tells, by its name, whether an image or its labels changed.
        Raises: DataFaults with every fault at once.
        """
        faults: list[InputError] = []
        prints: dict[str, Fingerprint] = {}
        for index in range(len(self)) if indices is None else indices:
            try:
                (keep or self._keep)(index, self._loaded(index, prints))
            except DataFaults as several:
                faults += several.faults
            except InputError as fault:
                faults.append(fault)
        if faults:
            raise DataFaults(faults)
        return prints


class PatchSampler:
    """Draws the crops of step n: half of them centred on a pixel of a uniformly chosen class.

    The others lie anywhere; in an image that is mostly bare, around its labelled pixels.
    `numbers`: which of the step's patches this process cuts; all, where nothing is said.
    """

    def __init__(
        self,
        dataset: Dataset,
        patch_px: int,
        batch: int,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.dataset = dataset
        self.patch_px = patch_px
        self.crop_px = math.ceil(patch_px * MARGIN)
        self.numbers = range(batch) if numbers is None else numbers
        self.seed = seed
        self.sizes: list[tuple[int, int]] = []
        self.statistics: list[PerChannel] = []
        self.positions: list[Mapping[int, np.ndarray]] = []
        self.bare: list[bool] = []
        types: set[np.dtype] = set()
        self.channels = self.label_planes = 1
        for index in range(len(dataset)):  # once: what is not kept is read
            item = dataset[index]
            height, width, self.channels = item.pixels.shape
            self.sizes.append((height, width))
            self.statistics.append(item.statistics)
            self.positions.append(_class_positions(item.labels, seed, index))
            num_bare = int(np.count_nonzero(item.labels == UNLABELLED))
            self.bare.append(num_bare > item.labels.size // 2)
            self.label_planes = 1 if item.targets is None else 1 + NUM_PLANES
            types.add(item.pixels.dtype)
        self.is_of_one_type = len(types) == 1
        self.dtype = types.pop() if len(types) == 1 else np.dtype(np.float32)
        weights = [dataset.project.data[sample.source].weight for sample in dataset.samples]
        # A source's weight is shared by its images: it says how often the source is drawn.
        counts = np.bincount([sample.source for sample in dataset.samples])
        shares = [w / counts[s.source] for w, s in zip(weights, dataset.samples, strict=True)]
        self.shares = np.asarray(shares) / sum(shares)
        # An image without a labelled pixel teaches nothing; one that is mostly bare is drawn from
        # where it is labelled.
        taught = np.array([bool(found) for found in self.positions])
        if taught.any() and not taught.all():
            self.shares = np.where(taught, self.shares, 0) / self.shares[taught].sum()
        self.classes = sorted({index for found in self.positions for index in found})

    def crops(self, step: int) -> Crops:
        """Return the crops of one step, before augmentation.

        A patch is drawn by its own numbers: which others are cut beside it changes nothing.
        They are of the images' own type where all have the same, else float32 and normalised.
        """
        size = (self.crop_px, self.crop_px)
        labels_NKMM = np.empty((len(self.numbers), self.label_planes, *size), np.uint8)
        images_NMMC = np.empty((len(self.numbers), *size, self.channels), self.dtype)
        statistics_NC4 = np.empty((len(self.numbers), self.channels, 4), np.float32)
        for n, place in enumerate(self.places(step)):
            statistics_NC4[n] = self._cut_one(place, images_NMMC[n], labels_NKMM[n])
        labels = torch.from_numpy(labels_NKMM)
        return Crops(
            images=torch.from_numpy(images_NMMC).movedim(-1, 1),
            labels=labels[:, 0] if self.label_planes == 1 else labels,
            statistics=torch.from_numpy(statistics_NC4),
        )

    def places(self, step: int) -> np.ndarray:
        """Return where the crops of a step lie: image, first row and column. Shapes: N×3 int64."""
        return np.array([self._place(step, number) for number in self.numbers])

    def _place(self, step: int, number: int) -> tuple[int, int, int]:
        rng = np.random.default_rng((self.seed, step, number))
        if self.classes and rng.random() < 0.5:
            chosen = self.classes[rng.integers(len(self.classes))]
            having = [i for i, found in enumerate(self.positions) if chosen in found]
            shares = self.shares[having]
            index = having[rng.choice(len(having), p=shares / shares.sum())]
            places = self.positions[index][chosen]
            centre = places[rng.integers(len(places))]
        else:
            index = int(rng.choice(len(self.shares), p=self.shares))
            centre = self._any_centre(index, rng)
        height, width = self.sizes[index]
        return index, self._first(int(centre[0]), height), self._first(int(centre[1]), width)

    def _cut_one(self, place: np.ndarray, image: np.ndarray, labels: np.ndarray) -> PerChannel:
        item = self.dataset[int(place[0])]
        rows, columns = (np.arange(self.crop_px) + first for first in place[1:])
        if item.pixels.dtype == self.dtype:
            _cut(item, rows, columns, image, labels)
        else:
            raw = np.empty(image.shape, item.pixels.dtype)
            _cut(item, rows, columns, raw, labels)
            image[...] = normalised(torch.from_numpy(raw), item.statistics).numpy()
        return item.statistics

    def resident_on(self, device: torch.device) -> Resident | None:
        """Return all images on a GPU, where they fit into its share of the memory."""
        number = sum(height * width for height, width in self.sizes)
        bytes_px = self.channels * self.dtype.itemsize + self.label_planes
        if not self.is_of_one_type or not fits(number, self.dtype, bytes_px, device):
            return None
        items = (self.dataset[index] for index in range(len(self.dataset)))
        return resident(
            ((item.pixels, item.planes) for item in items),
            self.sizes,
            self.dtype,
            device,
            self.channels,
            self.label_planes,
        )

    def _any_centre(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Return any pixel of an image; a labelled one where most are not."""
        if self.bare[index] and self.positions[index]:
            places = np.concatenate(list(self.positions[index].values()))
            return places[rng.integers(len(places))]
        height, width = self.sizes[index]
        return np.array([rng.integers(height), rng.integers(width)])

    def _first(self, centre: int, size: int) -> int:
        """Return the crop's first line; the patch in its middle stays inside where it can."""
        half = self.patch_px // 2
        if size > self.patch_px:
            centre = min(max(centre, half), size - (self.patch_px - half))
        else:
            centre = size // 2
        return centre - self.crop_px // 2


def class_pixel_counts(dataset: Dataset) -> np.ndarray:
    """Count the pixels of each class over all items, the last number those without a label.

    Shapes: C + 1 int64.
    """
    total = np.zeros(UNLABELLED + 1, np.int64)
    for index in range(len(dataset)):
        total += np.bincount(dataset[index].labels.ravel(), minlength=UNLABELLED + 1)
    return np.append(total[: len(dataset.project.classes)], total[UNLABELLED])


def _cut(
    item: TrainingItem, rows: np.ndarray, columns: np.ndarray, image: np.ndarray, labels: np.ndarray
) -> None:
    """Cut lines that may lie outside: the image is mirrored there, the labels are unlabelled.

    `image` and `labels` are written into.
    Shapes: M×M×C and K×M×M.
    """
    height, width = item.labels.shape
    top, bottom = max(0, -int(rows[0])), max(0, int(rows[-1]) + 1 - height)
    left, right = max(0, -int(columns[0])), max(0, int(columns[-1]) + 1 - width)
    down = slice(top, len(rows) - bottom)
    across = slice(left, len(columns) - right)
    if max(top, bottom) >= down.stop - top or max(left, right) >= across.stop - left:
        _cut_from_small(item, rows, columns, image, labels)
        return
    inside = (
        slice(rows[top], rows[top] + down.stop - top),
        slice(columns[left], columns[left] + across.stop - left),
    )
    image[down, across] = item.pixels[inside]
    if top or bottom or left or right:
        labels[...] = UNLABELLED
    labels[0, down, across] = item.labels[inside]
    if item.targets is not None:
        labels[1:, down, across] = item.targets[:, *inside]
    _mirror_ends(image[down].swapaxes(0, 1), left, right)
    _mirror_ends(image, top, bottom)


def _mirror_ends(lines: np.ndarray, before: int, after: int) -> None:
    """Fill the first and last lines with those on the other side of the first and last inner one.

    Slices only: numpy walks through lists of lines from pixel to pixel.
    """
    end = len(lines) - after
    if before:
        lines[:before] = lines[before + 1 : 2 * before + 1][::-1]
    if after:
        lines[end:] = lines[end - 1 - after : end - 1][::-1]


def _cut_from_small(
    item: TrainingItem, rows: np.ndarray, columns: np.ndarray, image: np.ndarray, labels: np.ndarray
) -> None:
    """Cut from an image so small that it is mirrored more than once."""
    height, width = item.labels.shape
    inside_rows, inside_columns = _mirrored(rows, height), _mirrored(columns, width)
    image[...] = item.pixels[inside_rows][:, inside_columns]
    labels[...] = item.planes[:, inside_rows][:, :, inside_columns]
    labels[:, (rows != inside_rows), :] = UNLABELLED
    labels[:, :, (columns != inside_columns)] = UNLABELLED


def _mirrored(lines: np.ndarray, size: int) -> np.ndarray:
    if size == 1:
        return np.zeros_like(lines)
    period = 2 * (size - 1)
    folded = np.abs(lines) % period
    return np.where(folded < size, folded, period - folded)


def _class_positions(labels: np.ndarray, seed: int, index: int) -> Mapping[int, np.ndarray]:
    """Return for each class up to _POSITIONS of its pixels (row, column), drawn evenly."""
    rng = np.random.default_rng((seed, index, 0xC1A55))
    found: dict[int, np.ndarray] = {}
    flat = labels.ravel()
    for value in np.flatnonzero(np.bincount(flat, minlength=256)[:UNLABELLED]):
        places = np.flatnonzero(flat == value)
        if len(places) > _POSITIONS:
            places = rng.choice(places, _POSITIONS, replace=False)
        found[int(value)] = np.stack(np.unravel_index(places, labels.shape), 1).astype(np.int32)
    return found
