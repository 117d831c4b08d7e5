"""The plain values that the engine link hands to screens and widgets."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_tui.series import SeriesView

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
    phase: str = ""  # of one that runs: reading, waiting, training, validating or saving
    rate: str = ""
    seconds_left: float | None = None
    created: float = 0.0
    job: int | None = None
    has_model: bool = False
    group: str = ""  # of a cross-validation's folds
    fold: int = 0  # from 1; 0: none
    is_copy: bool = False  # of another run's folder, or that folder under another name
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


class ImageRow(msgspec.Struct, frozen=True, gc=False):
    """One image of a project's data.

    There can be a hundred thousand, and the garbage collector looks at none of them: it would stop
    the keyboard for 50 ms.
    """

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


class Images:
    """The images of a project, and what finds one among a hundred thousand.

    Made by the thread that reads them: it takes longer than a key may.
    """

    def __init__(self, rows: Sequence[ImageRow] = ()) -> None:
        self.rows = tuple(rows)
        self.places = {row.key: place for place, row in enumerate(self.rows)}
        self.by_stem = {
            row.path.rpartition("/")[2].rpartition(".")[0]: row.path for row in self.rows
        }
        states = Counter(row.state for row in self.rows)
        self.states = " ".join(
            f"{states[name]:,} {glyph}"
            for name, (glyph, _) in STATE_OF_LABELS.items()
            if states[name]
        )
        words = "{} {} {} {}".format
        self._words = [
            words(row.name, row.split, row.labels, STATE_OF_LABELS[row.state][1]).lower()
            for row in self.rows
        ]
        self._found: list[tuple[str, Sequence[int]]] = []  # of the words before, the last one last

    def matching(self, words: str) -> Sequence[int]:
        """Return the places of the images with all of these words: name, class, split, state."""
        words = words.lower()
        while self._found and not words.startswith(self._found[-1][0]):
            self._found.pop()  # who types on narrows down what was found
        order: Sequence[int] = self._found[-1][1] if self._found else range(len(self.rows))
        for word in words.split():
            order = [n for n in order if word in self._words[n]]
        self._found.append((words, order))
        return order


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
    classes: str = ""  # names that were given where no label tells them; empty: as proposed
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


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    """How a picture shall be made for the terminal's own pixels."""

    kind: str  # sixel or kitty
    cell_px: tuple[int, int]  # width, height of a cell
    colours: tuple[tuple[int, int, int], ...] = ()  # of the classes, in their order
    share: float = 0.0  # of the colour in a pixel of a class; 0: no overlay
    outlines: bool = False  # only the rim of each region is coloured
    only_class: int | None = None


class SizeCurve(msgspec.Struct, frozen=True, kw_only=True):
    """One distribution of sizes as points to be joined."""

    name: str  # by number, by area, by volume
    points: tuple[tuple[float, float], ...]


class SizeChart(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions of one class over the same sizes, weighted in several ways."""

    title: str
    note: str  # what the height means
    x_words: str
    is_cumulative: bool
    curves: tuple[SizeCurve, ...]


class SizeMap(msgspec.Struct, frozen=True, kw_only=True):
    """Grains coloured by their size. Shapes: colours are H×W×3 bytes."""

    title: str
    words: str  # what the colours mean
    size_HW: tuple[int, int]
    colours: bytes


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
    is_whole: bool = True  # else more is there than was read by now


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
    verdict: str = ""  # pass | review | fail; empty: nobody judged
    why: str = ""  # it did not pass, or what a person said of it
    word: str = ""  # of a person: accepted | rejected | corrected
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
    verdicts: dict[str, int] = {}  # how many images have which; empty: nobody judged
    groups: dict[str, int] = {}  # how many groups have which verdict
    recipe_file: str = ""  # that the newest watch follows; empty: none
    recipe: str = ""  # that is followed
    median_lag_s: float | None = None
    worst_lag_s: float | None = None
    images_per_min: int = 0
    rates: tuple[float, ...] = ()  # images a minute, of the last minutes
    lags: tuple[float, ...] = ()  # seconds, of the last images
    newest: tuple[HotLine, ...] = ()
    failures: tuple[HotLine, ...] = ()
    fault: str = ""
    job: int | None = None


class HotTrend(msgspec.Struct, frozen=True, kw_only=True):
    """The control chart of one number of the hot folder's images."""

    name: str
    names: tuple[str, ...] = ()  # of all numbers there are
    part: str = ""  # a group or recipe in words; empty: of all images
    parts: tuple[str, ...] = ()
    note: str = ""
    times: tuple[float, ...] = ()  # seconds since 1970, oldest first
    values: tuple[float, ...] = ()
    ewma: tuple[float, ...] = ()
    levels: tuple[tuple[tuple[float, float], ...], ...] = ()  # lines: low, centre and high limit
    changes: tuple[float, ...] = ()  # when another recipe was followed from then on
    told: tuple[str, ...] = ()  # what changed, when


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
