"""The plain values that the engine link hands to screens and widgets."""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

_BLOCK = 64
_LARGEST = 1e30


class ColumnOfSeries(msgspec.Struct, frozen=True, kw_only=True):
    """What one column of a chart shows of a series."""

    x: float  # middle of the points in it
    low: float
    high: float
    mean: float


class Series:
    """Points in the order of their x; only ever grows, so that a view of it never changes."""

    def __init__(self) -> None:
        self.xs = array("d")
        self.ys = array("d")
        self._lows = array("d")
        self._highs = array("d")
        self._sums = array("d")

    def extend(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        """Append points; their x must not be below the last one's.

        What no chart can show (1e309 in a file reads as infinity) is left out.
        """
        xs, ys = list(xs), list(ys)
        if ys and not (min(ys) > -_LARGEST and max(ys) < _LARGEST and math.isfinite(sum(ys))):
            pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if abs(y) < _LARGEST]
            xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
        self.xs.extend(xs)
        self.ys.extend(ys)
        while (len(self._lows) + 1) * _BLOCK <= len(self.ys):
            start = len(self._lows) * _BLOCK
            block = self.ys[start : start + _BLOCK]
            self._highs.append(max(block))
            self._sums.append(sum(block))
            self._lows.append(min(block))  # last: its length says how many blocks are whole

    def cut_after(self, x: float) -> "Series":
        """Return a series of the points up to this x: what a resume leaves."""
        kept = Series()
        end = bisect_right(self.xs, x)
        kept.extend(self.xs[:end], self.ys[:end])
        return kept

    def view(self) -> "SeriesView":
        """Return the points so far, as a value that does not change any more."""
        return SeriesView(self, len(self.ys))

    def extremes(self, start: int, end: int) -> tuple[float, float, float]:
        """Return lowest, highest and sum of the points [start, end), which holds at least one."""
        first, last = -(-start // _BLOCK), min(end // _BLOCK, len(self._lows))
        if first >= last:
            part = self.ys[start:end]
            return min(part), max(part), sum(part)
        head, tail = self.ys[start : first * _BLOCK], self.ys[last * _BLOCK : end]
        low, high = min(self._lows[first:last]), max(self._highs[first:last])
        total = sum(self._sums[first:last]) + sum(head) + sum(tail)
        for part in (head, tail):
            if part:
                low, high = min(low, min(part)), max(high, max(part))
        return low, high, total


class SeriesView(msgspec.Struct, frozen=True):
    """The first `count` points of a series."""

    series: Series
    count: int

    @property
    def span(self) -> tuple[float, float] | None:
        """First and last x, or None without points."""
        return (self.series.xs[0], self.series.xs[self.count - 1]) if self.count else None

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self.series.ys[self.count - 1] if self.count else None

    def columns(self, left: float, right: float, num_columns: int) -> list[ColumnOfSeries]:
        """Return at most `num_columns` columns of the points between two x, and one beyond each."""
        if not self.count or num_columns < 1:
            return []
        xs = self.series.xs
        start = max(0, bisect_left(xs, left, 0, self.count) - 1)
        end = min(self.count, bisect_right(xs, right, 0, self.count) + 1)
        if end - start <= num_columns:
            ys = self.series.ys
            return [
                ColumnOfSeries(x=xs[n], low=ys[n], high=ys[n], mean=ys[n])
                for n in range(start, end)
            ]
        return self._summed(start, end, left, right, num_columns)

    def nearest(self, x: float) -> tuple[float, float] | None:
        """Return the point whose x is nearest."""
        if not self.count:
            return None
        xs = self.series.xs
        right = min(bisect_left(xs, x, 0, self.count), self.count - 1)
        left = max(0, right - 1)
        best = left if abs(xs[left] - x) <= abs(xs[right] - x) else right
        return xs[best], self.series.ys[best]

    def _summed(
        self, start: int, end: int, left: float, right: float, num_columns: int
    ) -> list[ColumnOfSeries]:
        xs = self.series.xs
        width = (right - left) / num_columns
        found: list[ColumnOfSeries] = []
        here = start
        for column in range(num_columns + 1):
            if column < num_columns:
                there = bisect_left(xs, left + (column + 1) * width, here, end)
            else:
                there = end
            if there > here:
                low, high, total = self.series.extremes(here, there)
                middle = (xs[here] + xs[there - 1]) / 2
                mean = total / (there - here)
                found.append(ColumnOfSeries(x=middle, low=low, high=high, mean=mean))
            here = there
        return found


def smoothed(columns: list[ColumnOfSeries], strength: int) -> list[ColumnOfSeries]:
    """Return the columns' means as a running average; strength 0 leaves them as they are.

    A running average over about 2, 6 or 20 columns on both sides, cut at the ends.
    """
    if strength <= 0:
        return columns
    reach = (2, 6, 20)[min(strength, 3) - 1]
    sums = [0.0]
    for column in columns:
        sums.append(sums[-1] + column.mean)
    out: list[ColumnOfSeries] = []
    for place, column in enumerate(columns):
        first, last = max(0, place - reach), min(len(columns), place + reach + 1)
        mean = (sums[last] - sums[first]) / (last - first)
        out.append(ColumnOfSeries(x=column.x, low=mean, high=mean, mean=mean))
    return out


Tone = Literal["", "dim", "good", "warn", "bad", "live"]

# A state is a glyph and a word, never a colour alone.
STATE_LOOKS: dict[str, tuple[str, Tone]] = {
    "running": ("●", "live"),
    "stopping": ("◐", "warn"),
    "queued": ("○", ""),
    "paused": ("‖", "warn"),
    "new": ("○", "dim"),
    "reading": ("…", "dim"),  # by us: it is not known yet
    "done": ("✓", "good"),
    "failed": ("✗", "bad"),
    "cancelled": ("–", "dim"),
    "interrupted": ("↯", "warn"),
    "lost": ("?", "bad"),
}


ENDABLE = ("running", "stopping", "queued", "paused")
BADLY_ENDED = ("failed", "lost", "interrupted")  # a reason stands where the curves would be


class ProjectRow(msgspec.Struct, frozen=True, kw_only=True):
    """One project at a glance."""

    folder: Path
    name: str
    fault: str = ""
    num_images: int = 0
    num_labels: int = 0
    num_runs: int = 0
    score: float | None = None  # IoU of the model that "best" stands for
    now: str = ""  # what runs or waits, or why the newest run ended badly
    tone: str = ""


class SaidLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a job or a hot folder of some project said."""

    time: float
    project: str
    text: str
    folder: Path  # of the project
    log: Path | None = None


class ClassScore(msgspec.Struct, frozen=True, kw_only=True):
    """How well one class is told from the others, at the newest validation."""

    name: str
    iou: float | None
    f1: float | None


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run in the list."""

    id: str
    folder: Path
    does: str
    state: str
    reason: str = ""
    network: str = ""
    score: float | None = None
    best_step: int | None = None
    step: int = 0
    total_steps: int | None = None
    phase: str = ""  # of one that runs: reading, training, validating or saving
    rate: str = ""
    seconds_left: float | None = None
    created: float = 0.0
    job: int | None = None
    has_model: bool = False
    group: str = ""  # of a cross-validation's folds
    fold: int = 0  # from 1; 0: none
    settings: tuple[tuple[str, str], ...] = ()  # what it was asked for, by dotted names


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """One picture of a validation: image, truth, prediction and error side by side."""

    step: int
    image: str
    file: Path


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of what a run says."""

    time: float
    text: str
    tone: Tone = ""


class RunDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is drawn of one run."""

    id: str
    version: int = 0  # grows with every batch that changed something
    curves: dict[str, SeriesView] = {}
    classes: tuple[ClassScore, ...] = ()
    validated_at: int | None = None
    best_step: int | None = None
    lines: tuple[LogLine, ...] = ()
    log: tuple[str, ...] = ()
    previews: tuple[Preview, ...] = ()  # oldest validation first


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """One job in the queue."""

    id: int
    state: str
    project: str
    kind: str
    run: Path
    asks: str
    since: float
    took_s: float | None
    reason: str
    is_open: bool
    progress: str = ""  # of one that runs: phase, step of total, rate, time left
    where: str = "here"  # or slurm and its number
    gpu_ids: tuple[str, ...] = ()


class GpuRow(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU: its memory and who has it."""

    name: str
    index: int
    used_gb: float
    total_gb: float
    owner: str


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """The queue, the GPUs and the daemon, as they are now."""

    is_read: bool = False  # nothing is known before
    jobs: tuple[JobRow, ...] = ()
    gpus: tuple[GpuRow, ...] = ()
    daemon_pid: int | None = None
    fault: str = ""


# How far an image is labelled: a glyph, and the word that the filter knows.
STATE_OF_LABELS: dict[str, tuple[str, str]] = {
    "": (" ", ""),
    "none": ("○", "no labels"),
    "part": ("◐", "partly labelled"),
    "whole": ("●", "labelled"),
    "predicted": ("◇", "predicted"),  # or suggested: a model's word, no person's
}


class ImageRow(NamedTuple):
    """One image of a project's data; a tuple, since there can be a hundred thousand."""

    name: str
    path: str
    plane: int | None = None
    source: int = 0
    labels: str = ""  # what its labels hold, for people
    split: str = ""
    label: object = None  # handed back to the decoder as it came
    state: str = ""  # one of STATE_OF_LABELS; empty: not known yet
    num_px: int = 0  # that a mask labels; 0: not known

    def state_of_labels(self, facts: "ImageFacts | None" = None) -> str:
        """Return how far the image is labelled; a mask with unlabelled pixels is a part."""
        across, times, down = (facts.size if facts else "").partition("×")
        if self.num_px and times and self.num_px < int(across) * int(down):
            return "part"
        return self.state

    @property
    def key(self) -> str:
        """The file with its plane: what tells it from the others."""
        return self.path if self.plane is None else f"{self.path}#{self.plane}"


class ImageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers of one image say."""

    size: str = ""
    pixel_nm: float | None = None
    fault: str = ""


class FindingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that `check` found."""

    level: str
    file: str
    what: str
    remedy: str = ""


class CheckState(msgspec.Struct, frozen=True, kw_only=True):
    """How the check beside the data is doing."""

    running: bool = False
    findings: tuple[FindingRow, ...] = ()
    summary: str = ""


class FoundClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class that a new project would have, and where it was found."""

    name: str
    value: int
    shapes: int = 0
    images: int = 0


class UnreadableFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a new project could not use as it is."""

    file: str
    what: str
    remedy: str = ""


class FolderLook(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder of images holds, before a project is made of it."""

    file: str
    images: str
    num_images: int
    labels: str
    kind: str
    num_labelled: int
    classes: tuple[FoundClass, ...]
    alike: tuple[tuple[str, str], ...]
    unreadable: tuple[UnreadableFile, ...]
    notes: tuple[str, ...]


class NewProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project that is to be made."""

    folder: Path
    merges: tuple[tuple[str, str], ...] = ()  # a label, and the class that it means
    is_edited: bool = False  # open project.toml in the person's editor afterwards


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a training's plan: what, its value, and why."""

    name: str
    value: str
    why: str = ""


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a training with these settings would do."""

    overrides: tuple[str, ...] = ()
    rows: tuple[PlanRow, ...] = ()
    errors: tuple[FindingRow, ...] = ()  # what it would refuse
    num_warnings: int = 0
    fault: str = ""  # why it could not be worked out


def class_letters(names: Sequence[str]) -> tuple[str, ...]:
    """Return one letter a class, in their order: its first one that no class before it has."""
    taken: set[str] = set()
    letters: list[str] = []
    for name in names:
        wanted = f"{name.lower()}abcdefghijklmnopqrstuvwxyz"
        letter = next((c for c in wanted if c.isascii() and c.isalpha() and c not in taken), "·")
        taken.add(letter)
        letters.append(letter)
    return tuple(letters)


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture shall be made for the terminal's own pixels."""

    kind: str  # sixel or kitty
    cell_px: tuple[int, int]  # width, height of a cell
    colours: tuple[tuple[int, int, int], ...] = ()  # of the classes, in their order
    share: float = 0.0  # of the colour in a pixel of a class; 0: no overlay
    outlines: bool = False  # only the rim of each region is coloured
    only_class: int | None = None


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a micrograph as the decoder made it: one grey value or colour a half-block.

    Shapes: ids hold width × height bytes, row after row: class values, 255: none; rims the same,
    255 but at the rim of each region; grey as many, or three times as many (red, green, blue) of a
    picture in colour.
    """

    key: str
    width: int
    height: int
    grey: bytes = b""
    ids: bytes = b""
    rims: bytes = b""
    graphic: bytes = b""  # the same in the terminal's own pixels, where that was asked for
    drawing: Drawing | None = None  # what `graphic` was made for
    channels: int = 1  # of `grey`: 3 for a picture in colour
    image_px: tuple[int, int] = (0, 0)  # width, height of the whole image
    view_px: tuple[float, float, float, float] = (0, 0, 1, 1)  # left, top, width, height shown
    pixel_nm: float | None = None
    classes: tuple[tuple[int, str], ...] = ()  # value, name
    fault: str = ""
    info: str = ""


class FieldFault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one key of project.toml."""

    key: str
    text: str


class HotLine(msgspec.Struct, frozen=True, kw_only=True):
    """One image that came through the hot folder."""

    time: float
    image: str
    path: Path | None
    mask: Path | None
    text: str
    unlike: str = ""
    failed: bool = False
    attempts: int = 0  # that failed
    is_final: bool = True  # else it is tried again by itself


class HotState(msgspec.Struct, frozen=True, kw_only=True):
    """How the hot folder is doing."""

    is_read: bool = True  # nothing is known before
    configured: bool = False
    state: str = "stopped"
    detail: str = ""
    watch: str = ""
    output: str = ""
    model: str = ""
    run: str = ""
    since: float | None = None
    done: int = 0
    failed: int = 0
    trying: int = 0
    skipped: int = 0
    unlike: int = 0
    median_lag_s: float | None = None
    worst_lag_s: float | None = None
    images_per_min: int = 0
    rates: tuple[float, ...] = ()  # images a minute, of the last minutes
    lags: tuple[float, ...] = ()  # seconds, of the last images
    newest: tuple[HotLine, ...] = ()
    failures: tuple[HotLine, ...] = ()
    fault: str = ""
    job: int | None = None


Deed = Literal["retry", "image", "run", "check"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A message to be read whole, and what can be done about it now."""

    title: str
    what: str
    where: str = ""
    remedy: str = ""
    lines: tuple[str, ...] = ()  # the last of a log, or the moves of a job
    lines_are: str = "the last lines of its log"
    file: Path | None = None  # what it speaks of
    can_edit: bool = False  # the file is a text that an editor can open
    deeds: tuple[Deed, ...] = ()
    about: str = ""  # the image, run or job, for whoever does the deed


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model file of a project."""

    run: str
    role: str
    file: Path
    network: str
    classes: str
    score: float | None
    step: int
    pixel_nm: float | None
    patch_px: int
    created: str
    bytes: int
    num_validated: int | None = None  # images that the IoU is of; None: an older file
    fault: str = ""
